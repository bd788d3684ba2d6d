package blob_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/storage/blob"
)

func open(t *testing.T, dir string, f *blob.Faults) *blob.Store {
	t.Helper()
	s, err := blob.Open(dir, blob.Options{Faults: f})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 31 >> 3)
	}
	return b
}

func read(t *testing.T, s *blob.Store, n blob.Name) []byte {
	t.Helper()
	o, err := s.Object(n)
	if err != nil {
		return nil
	}
	defer o.Close()
	b, err := io.ReadAll(o)
	if err != nil || int64(len(b)) != o.Size {
		t.Fatalf("%d bytes of %d: %v", len(b), o.Size, err)
	}
	return b
}

func TestUploadInParts(t *testing.T) {
	s, n, all := open(t, t.TempDir(), nil), blob.Name{1}, content(700_001)
	for at := 0; at < len(all); {
		end := min(at+300_000, len(all))
		have, err := s.Append(n, int64(at), int64(len(all)), bytes.NewReader(all[at:end]))
		if err != nil || have != int64(end) {
			t.Fatal(have, err)
		}
		if _, err := s.Object(n); clearbox.CodeOf(err) != clearbox.CodeNotFound {
			t.Errorf("half an object is there: %v", err)
		}
		at = end
	}
	for range 2 { // again is the same
		if err := s.Finish(n, int64(len(all)), sha256.Sum256(all)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(read(t, s, n), all) {
		t.Error("another object came back")
	}
	if have, whole, err := s.Have(n); have != int64(len(all)) || !whole || err != nil {
		t.Error(have, whole, err)
	}
	if files, size, err := s.Usage(); files != 1 || size != int64(len(all)) || err != nil {
		t.Error(files, size, err)
	}
	for range 2 {
		if err := s.Remove(n); err != nil {
			t.Error(err)
		}
	}
	if have, whole, _ := s.Have(n); have != 0 || whole {
		t.Error("it is still there")
	}
}

// What does not fit the place, the length or the digest that were announced.
func TestUploadThatDoesNotFit(t *testing.T) {
	s, n, all := open(t, t.TempDir(), nil), blob.Name{2}, content(1000)
	size, digest := int64(len(all)), sha256.Sum256(all)
	var offset *blob.OffsetError
	if _, err := s.Append(n, 5, size, bytes.NewReader(all)); !errors.As(err, &offset) || offset.Have != 0 {
		t.Errorf("beyond the end: %v", err)
	}
	if have, err := s.Append(n, 0, size, iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(all)))); clearbox.CodeOf(err) != clearbox.CodeUnavailable || have != 1 {
		t.Errorf("a body that broke off: %d %v", have, err)
	}
	if _, err := s.Append(n, 0, size, bytes.NewReader(all)); !errors.As(err, &offset) || offset.Have != 1 {
		t.Errorf("from the beginning again: %v", err)
	}
	if err := s.Finish(n, size, digest); !errors.As(err, &offset) || offset.Have != 1 {
		t.Errorf("finished too early: %v", err)
	}
	if have, err := s.Append(n, 1, size, io.MultiReader(bytes.NewReader(all[1:]), bytes.NewReader(all))); clearbox.CodeOf(err) != clearbox.CodeTooLarge || have != size {
		t.Errorf("more than was announced: %d %v", have, err)
	}
	if err := s.Finish(n, size, sha256.Sum256(nil)); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
		t.Errorf("another digest: %v", err)
	}
	if have, _, _ := s.Have(n); have != 0 {
		t.Errorf("a damaged upload goes on at %d", have)
	}
	if _, err := s.Append(n, 0, size, bytes.NewReader(all)); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(n, size, digest); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(n, size, size+1, bytes.NewReader(all[:1])); !errors.As(err, &offset) {
		t.Errorf("behind a whole object: %v", err)
	}
	if err := s.Finish(blob.Name{9}, size, digest); !errors.As(err, &offset) || offset.Have != 0 {
		t.Errorf("finished what never began: %v", err)
	}
}

// The connection that an upload hung on is still there when its next one goes
// on: what the old one brings late does not damage it.
func TestTwoAtTheSameUpload(t *testing.T) {
	s, n, all := open(t, t.TempDir(), nil), blob.Name{3}, content(600_000)
	size := int64(len(all))
	r, w := io.Pipe()
	var late sync.WaitGroup
	late.Go(func() {
		var offset *blob.OffsetError
		if _, err := s.Append(n, 0, size, r); !errors.As(err, &offset) {
			t.Errorf("the late one: %v", err)
		}
		r.CloseWithError(io.ErrClosedPipe)
	})
	if _, err := w.Write(all[:300_000]); err != nil { // more than one piece: the first is stored
		t.Fatal(err)
	}
	have, _, err := s.Have(n)
	if err != nil || have == 0 {
		t.Fatal(have, err)
	}
	if _, err := s.Append(n, have, size, bytes.NewReader(all[have:])); err != nil {
		t.Fatal(err)
	}
	w.Write(bytes.Repeat([]byte{0xff}, 300_000)) // fails when the reader has gone
	late.Wait()
	if err := s.Finish(n, size, sha256.Sum256(all)); err != nil {
		t.Error(err)
	}
}

// Every durable step fails before and after it has happened; then the process
// dies and another one opens the folder. Whatever was answered as stored is
// there, no half object can be read, and the same upload can be ended.
func TestFailures(t *testing.T) {
	all := content(270_000) // more than one piece
	size, digest := int64(len(all)), sha256.Sum256(all)
	part := int64(1000)
	broken := errors.New("broken")
	steps := []blob.Step{blob.StepCreate, blob.StepWrite, blob.StepSync, blob.StepSyncFolder, blob.StepRename, blob.StepRemove}
	for _, step := range steps {
		for _, after := range []bool{false, true} {
			for nth := range 3 { // the nth time that the step is taken
				for _, cause := range []error{broken, syscall.ENOSPC} {
					var f blob.Faults
					dir := t.TempDir()
					s, n, seen, fired := open(t, dir, &f), blob.Name{4}, 0, false
					f.Set(func(at blob.Step, late bool) error {
						if at != step || late != after {
							return nil
						}
						if seen++; seen == nth+1 {
							fired = true
							return cause
						}
						return nil
					})
					stored := int64(0) // answered
					err := func() error {
						for _, end := range []int64{part, size} {
							have, err := s.Append(n, stored, size, bytes.NewReader(all[stored:end]))
							if err != nil {
								return err
							}
							stored = have
						}
						if err := s.Finish(n, size, digest); err != nil {
							return err
						}
						return s.Remove(n)
					}()
					if fired && err == nil {
						t.Errorf("%s, after %v, time %d: success was answered", step, after, nth)
					}
					if fired && cause == error(syscall.ENOSPC) && clearbox.CodeOf(err) != clearbox.CodeStoreFull {
						t.Errorf("%s on a full disk: %v", step, err)
					}
					s = open(t, dir, nil)
					have, whole, err := s.Have(n)
					removing := fired && step == blob.StepRemove
					if fired && !removing && (err != nil || have < stored) {
						t.Errorf("%s, after %v, time %d: %d bytes of %d that were answered (%v)", step, after, nth, have, stored, err)
					}
					if got := read(t, s, n); got != nil && !bytes.Equal(got, all) {
						t.Errorf("%s, after %v, time %d: a damaged object is readable", step, after, nth)
					}
					if whole {
						continue
					}
					if _, err := s.Append(n, have, size, bytes.NewReader(all[have:])); err != nil {
						t.Errorf("%s, after %v, time %d: the upload does not go on: %v", step, after, nth, err)
					}
					if err := s.Finish(n, size, digest); err != nil || !bytes.Equal(read(t, s, n), all) {
						t.Errorf("%s, after %v, time %d: the upload does not end: %v", step, after, nth, err)
					}
				}
			}
		}
	}
}

// A power cut may leave an upload shorter or with other bytes than were
// written: neither becomes an object.
func TestDamagedUpload(t *testing.T) {
	dir, n, all := t.TempDir(), blob.Name{5}, content(100_000)
	size, digest := int64(len(all)), sha256.Sum256(all)
	s := open(t, dir, nil)
	if _, err := s.Append(n, 0, size, bytes.NewReader(all)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "incoming", "05000000000000000000000000000000")
	zeroed := slices.Clone(all)
	clear(zeroed[60_000:])
	if err := os.WriteFile(path, zeroed, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Finish(n, size, digest); clearbox.CodeOf(err) != clearbox.CodeBadRequest {
		t.Errorf("zeros were taken for an object: %v", err)
	}
	if read(t, s, n) != nil {
		t.Error("it is readable")
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, nil)
	for i := range 1200 {
		n := blob.Name{byte(i), byte(i >> 8)}
		if _, err := s.Append(n, 0, 1, bytes.NewReader([]byte{1})); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			if err := s.Finish(n, 1, sha256.Sum256([]byte{1})); err != nil {
				t.Fatal(err)
			}
		}
	}
	foreign := filepath.Join(dir, "objects", "00", "README")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept := func(n blob.Name) bool { return n[0]%2 == 0 }
	n, err := s.Sweep(t.Context(), func(_ context.Context, names []blob.Name) ([]blob.Name, error) {
		return slices.DeleteFunc(slices.Clone(names), kept), nil
	})
	if n != 600 || err != nil {
		t.Error(n, err)
	}
	if files, _, err := s.Usage(); files != 600 || err != nil {
		t.Error(files, err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error("what is not ours was deleted")
	}
	if _, err := s.Sweep(t.Context(), func(context.Context, []blob.Name) ([]blob.Name, error) { return nil, errors.New("no answer") }); err == nil {
		t.Error("swept without an answer")
	}
}
