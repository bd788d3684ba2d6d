package servertest

import (
	"os"
	"path/filepath"
)

// Backup copies the data of a homeserver, which must be stopped, and returns
// what puts the copy back; then it must be stopped as well.
func (h *House) Backup() (restore func()) {
	w := h.w
	w.T.Helper()
	if h.server != nil {
		w.T.Fatalf("%s is running", h.Name)
	}
	kept := filepath.Join(w.T.TempDir(), "backup")
	w.must(os.CopyFS(kept, os.DirFS(h.Conf.Server.DataDir)))
	return func() {
		w.T.Helper()
		if h.server != nil {
			w.T.Fatalf("%s is running", h.Name)
		}
		w.must(os.RemoveAll(h.Conf.Server.DataDir))
		w.must(os.CopyFS(h.Conf.Server.DataDir, os.DirFS(kept)))
		w.must(os.Chmod(h.Conf.Server.DataDir, 0o700))
	}
}
