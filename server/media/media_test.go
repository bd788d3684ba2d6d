package media_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/federation"
	"github.com/clearbox-im/clearbox/server/auth"
	"github.com/clearbox-im/clearbox/server/auth/authtest"
	"github.com/clearbox-im/clearbox/server/media"
	"github.com/clearbox-im/clearbox/storage"
	"github.com/clearbox-im/clearbox/storage/blob"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*authtest.World
	*media.Service
	t      *testing.T
	dir    string
	faults *blob.Faults
	remote *remote
}

// remote is another server.
type remote struct {
	mu    sync.Mutex
	asked []federation.MediaQuestion
	give  func(q federation.MediaQuestion) (*federation.MediaPiece, error)
}

func (r *remote) Media(_ context.Context, _ clearbox.ServerName, q federation.MediaQuestion) (*federation.MediaPiece, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, q)
	return r.give(q)
}

func newWorld(t *testing.T, o media.Options) *world {
	w := &world{World: authtest.New(t, auth.Options{}), t: t, dir: t.TempDir(), faults: &blob.Faults{}, remote: &remote{}}
	blobs, err := blob.Open(w.dir, blob.Options{Faults: w.faults})
	if err != nil {
		t.Fatal(err)
	}
	o.Remote = w.remote
	w.Service = media.New(w.Store, blobs, authtest.Server, o)
	return w
}

func (w *world) person(h clearbox.Handle) auth.Principal {
	_, tokens := w.Join(h)
	return w.Principal(tokens.Access)
}

var secret = [media.SecretSize]byte{7}

func hash() [32]byte { return sha256.Sum256(secret[:]) }

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 4)
	}
	return b
}

// put uploads an object in one go.
func (w *world) put(p auth.Principal, object clearbox.ObjectID, all []byte) {
	w.t.Helper()
	ctx := w.t.Context()
	if _, _, err := w.Create(ctx, p, object, int64(len(all)), hash()); err != nil {
		w.t.Fatal(err)
	}
	if up, err := w.Append(ctx, p, object, 0, bytes.NewReader(all)); err != nil || up.Have != int64(len(all)) {
		w.t.Fatal(up, err)
	}
	if up, err := w.Finish(ctx, p, object, sha256.Sum256(all)); err != nil || !up.Whole {
		w.t.Fatal(up, err)
	}
}

func (w *world) read(p auth.Principal, server clearbox.ServerName, object clearbox.ObjectID, key [media.SecretSize]byte, r media.Range) ([]byte, error) {
	st, err := w.Read(w.t.Context(), p, server, object, key, r)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var out []byte
	for {
		b, err := st.Next(w.t.Context())
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, b...)
	}
}

func code(t *testing.T, what string, err error, want clearbox.Code) {
	t.Helper()
	if got := clearbox.CodeOf(err); got != want {
		t.Errorf("%s: %q (%v), want %q", what, got, err, want)
	}
}

func TestUploadAndRead(t *testing.T) {
	w := newWorld(t, media.Options{})
	ctx, alice, bob := t.Context(), w.person("alice"), w.person("bob")
	object, all := clearbox.ObjectID{1}, content(1<<20+77)
	up, created, err := w.Create(ctx, alice, object, int64(len(all)), hash())
	if err != nil || !created || up.Have != 0 || up.Whole {
		t.Fatal(up, created, err)
	}
	if _, created, err = w.Create(ctx, alice, object, int64(len(all)), hash()); err != nil || created {
		t.Error("announced again:", created, err)
	}
	_, _, err = w.Create(ctx, alice, object, 5, hash())
	code(t, "announced with another size", err, clearbox.CodeConflict)
	_, _, err = w.Create(ctx, bob, object, int64(len(all)), hash())
	code(t, "announced by another", err, clearbox.CodeConflict)
	_, err = w.Append(ctx, bob, object, 0, bytes.NewReader(all))
	code(t, "another's upload", err, clearbox.CodeNotFound)
	if up, err = w.Append(ctx, alice, object, 0, bytes.NewReader(all[:500])); err != nil || up.Have != 500 {
		t.Fatal(up, err)
	}
	_, err = w.Append(ctx, alice, object, 0, bytes.NewReader(all))
	code(t, "from the beginning again", err, clearbox.CodeConflict)
	_, err = w.Finish(ctx, alice, object, sha256.Sum256(all))
	code(t, "finished too early", err, clearbox.CodeConflict)
	_, err = w.read(bob, authtest.Server, object, secret, media.Range{})
	code(t, "read before it is whole", err, clearbox.CodeNotFound)
	if up, err = w.State(ctx, alice, object); err != nil || up.Have != 500 {
		t.Error(up, err)
	}
	if _, err = w.Append(ctx, alice, object, 500, bytes.NewReader(all[500:])); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if up, err = w.Finish(ctx, alice, object, sha256.Sum256(all)); err != nil || !up.Whole {
			t.Fatal(up, err)
		}
	}
	_, err = w.Finish(ctx, alice, object, [32]byte{})
	code(t, "finished with another digest", err, clearbox.CodeConflict)
	if got, err := w.read(bob, authtest.Server, object, secret, media.Range{}); err != nil || !bytes.Equal(got, all) {
		t.Error(len(got), err)
	}
	// A wrong secret and an object that is not there look alike.
	_, err1 := w.read(bob, authtest.Server, object, [media.SecretSize]byte{8}, media.Range{})
	_, err2 := w.read(bob, authtest.Server, clearbox.ObjectID{9}, secret, media.Range{})
	code(t, "another secret", err1, clearbox.CodeNotFound)
	if err1.Error() != err2.Error() {
		t.Errorf("%v, %v", err1, err2)
	}
	code(t, "deleted by another", w.Delete(ctx, bob, object), clearbox.CodeNotFound)
	if err := w.Delete(ctx, alice, object); err != nil {
		t.Error(err)
	}
	_, err = w.read(bob, authtest.Server, object, secret, media.Range{})
	code(t, "deleted", err, clearbox.CodeNotFound)
	w.noFiles()
}

func (w *world) noFiles() {
	w.t.Helper()
	filepath.WalkDir(w.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			w.t.Error("left:", path)
		}
		return err
	})
}

func TestRanges(t *testing.T) {
	w := newWorld(t, media.Options{})
	alice, object, all := w.person("alice"), clearbox.ObjectID{1}, content(1_300_000)
	w.put(alice, object, all)
	for _, r := range []media.Range{{0, 1}, {5, 6}, {0, 524_288}, {524_287, 524_289}, {1_299_999, 0}, {100, 99_000_000}, {600_000, 1_300_000}} {
		end := int64(len(all))
		if r.To > 0 {
			end = min(end, r.To)
		}
		if got, err := w.read(alice, authtest.Server, object, secret, r); err != nil || !bytes.Equal(got, all[r.From:end]) {
			t.Errorf("%v: %d bytes, %v", r, len(got), err)
		}
	}
	var beyond *media.RangeError
	if _, err := w.read(alice, authtest.Server, object, secret, media.Range{From: 1_300_000}); !errors.As(err, &beyond) || beyond.Size != 1_300_000 {
		t.Error(err)
	}
}

func TestParseRange(t *testing.T) {
	for header, want := range map[string]media.Range{
		"bytes=0-0": {0, 1}, "bytes=0-99": {0, 100}, "bytes=7-": {7, 0}, "bytes=007-9": {7, 10}, "bytes=999999999999999-": {999_999_999_999_999, 0},
	} {
		if r, ok := media.ParseRange(header); !ok || r != want {
			t.Errorf("%q: %v %v", header, r, ok)
		}
	}
	for _, header := range []string{"", "bytes", "bytes=", "bytes=-", "bytes=-5", "bytes=5-4", "bytes=0-1,3-4", "bytes= 0-1", "bytes=0x1-2", "items=0-1",
		"bytes=0-1 ", "bytes=+1-2", "bytes=1-+2", "bytes=9999999999999999-", "bytes=--"} {
		if r, ok := media.ParseRange(header); ok || r != (media.Range{}) {
			t.Errorf("%q: %v %v", header, r, ok)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-99")
	f.Add("bytes=5-")
	f.Add("bytes=0-1,4-5")
	f.Fuzz(func(t *testing.T, header string) {
		if r, ok := media.ParseRange(header); r.From < 0 || r.To < 0 || ok && r.To != 0 && r.To <= r.From || !ok && r != (media.Range{}) {
			t.Errorf("%q: %v %v", header, r, ok)
		}
	})
}

func TestQuota(t *testing.T) {
	full := false
	w := newWorld(t, media.Options{MaxObject: 1000, MaxAccount: 2500, Admit: func() error {
		if full {
			return clearbox.Errorf(clearbox.CodeStoreFull, "full")
		}
		return nil
	}})
	ctx, alice, bob := t.Context(), w.person("alice"), w.person("bob")
	create := func(p auth.Principal, n byte, size int64) error {
		_, _, err := w.Create(ctx, p, clearbox.ObjectID{n}, size, hash())
		return err
	}
	code(t, "nothing", create(alice, 1, 0), clearbox.CodeBadRequest)
	code(t, "too large", create(alice, 1, 1001), clearbox.CodeTooLarge)
	code(t, "first", create(alice, 1, 1000), "")
	code(t, "second", create(alice, 2, 1000), "")
	code(t, "third", create(alice, 3, 501), clearbox.CodeQuota)
	code(t, "what fits", create(alice, 3, 500), "")
	code(t, "again, with a full quota", create(alice, 3, 500), "")
	code(t, "another account", create(bob, 4, 1000), "")
	if err := w.Delete(ctx, alice, clearbox.ObjectID{1}); err != nil {
		t.Error(err)
	}
	code(t, "after a deletion", create(alice, 5, 1000), "")
	full = true
	code(t, "a full disk", create(bob, 6, 1), clearbox.CodeStoreFull)
	_, err := w.Append(ctx, bob, clearbox.ObjectID{4}, 0, bytes.NewReader([]byte{1}))
	code(t, "a part on a full disk", err, clearbox.CodeStoreFull)
}

func TestExpiry(t *testing.T) {
	w := newWorld(t, media.Options{TTL: time.Hour})
	ctx, alice := t.Context(), w.person("alice")
	w.put(alice, clearbox.ObjectID{1}, content(10))
	w.Clock.Fly(30 * time.Minute)
	w.put(alice, clearbox.ObjectID{2}, content(10))
	w.Clock.Fly(30 * time.Minute)
	_, err := w.read(alice, authtest.Server, clearbox.ObjectID{1}, secret, media.Range{})
	code(t, "expired and not swept yet", err, clearbox.CodeNotFound)
	w.ExpireNow(ctx)
	if _, err := w.read(alice, authtest.Server, clearbox.ObjectID{2}, secret, media.Range{}); err != nil {
		t.Error(err)
	}
	w.Clock.Fly(30 * time.Minute)
	w.ExpireNow(ctx)
	w.noFiles()
}

// A crash between a row's end and its file's leaves a file that is swept; one
// account's objects go with one call.
func TestOrphansAndErasure(t *testing.T) {
	w := newWorld(t, media.Options{})
	ctx, alice, bob := t.Context(), w.person("alice"), w.person("bob")
	for i := range byte(5) {
		w.put(alice, clearbox.ObjectID{1, i}, content(10))
	}
	w.put(bob, clearbox.ObjectID{2}, content(10))
	w.faults.Set(func(step blob.Step, after bool) error {
		if step == blob.StepRemove && !after {
			return errors.New("the process is gone")
		}
		return nil
	})
	if n, err := w.Erase(ctx, alice.UserNo); n != 5 || err != nil {
		t.Error(n, err)
	}
	w.faults.Set(nil)
	w.SweepNow(ctx)
	if files := w.files(); files != 1 {
		t.Errorf("%d files", files)
	}
	if _, err := w.read(alice, authtest.Server, clearbox.ObjectID{2}, secret, media.Range{}); err != nil {
		t.Errorf("another's is gone too: %v", err)
	}
}

func (w *world) files() (n int) {
	filepath.WalkDir(w.dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	return n
}

// The file becomes whole before the row says so: a crash in between leaves an
// upload that is finished by asking again.
func TestCrashWhileFinishing(t *testing.T) {
	w := newWorld(t, media.Options{})
	ctx, alice, object, all := t.Context(), w.person("alice"), clearbox.ObjectID{1}, content(1000)
	for _, after := range []bool{false, true} {
		object[0]++
		if _, _, err := w.Create(ctx, alice, object, 1000, hash()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Append(ctx, alice, object, 0, bytes.NewReader(all)); err != nil {
			t.Fatal(err)
		}
		w.Faults.Set(func(step storage.FaultStep, late bool, _ string) error {
			if step == storage.FaultCommit && late == after {
				return errors.New("gone")
			}
			return nil
		})
		if _, err := w.Finish(ctx, alice, object, sha256.Sum256(all)); err == nil {
			t.Error("finished without a commit")
		}
		w.Faults.Set(nil)
		if up, err := w.Finish(ctx, alice, object, sha256.Sum256(all)); err != nil || !up.Whole {
			t.Error(up, err)
		}
		if got, err := w.read(alice, authtest.Server, object, secret, media.Range{}); err != nil || !bytes.Equal(got, all) {
			t.Error(len(got), err)
		}
	}
}

func pieceOf(all []byte, q federation.MediaQuestion) *federation.MediaPiece {
	from := min(q.From, int64(len(all)))
	return &federation.MediaPiece{Size: int64(len(all)), Digest: sha256.Sum256(all), Data: all[from:min(from+int64(q.Most), int64(len(all)))]}
}

func TestReadElsewhere(t *testing.T) {
	w := newWorld(t, media.Options{})
	alice, object, all := w.person("alice"), clearbox.ObjectID{1}, content(3*federation.MaxMediaPiece+5)
	w.remote.give = func(q federation.MediaQuestion) (*federation.MediaPiece, error) { return pieceOf(all, q), nil }
	for _, r := range []media.Range{{}, {From: 5, To: 6}, {From: 1000}, {From: 1000, To: 2_000_000}} {
		end := int64(len(all))
		if r.To > 0 {
			end = min(end, r.To)
		}
		if got, err := w.read(alice, "b.test", object, secret, r); err != nil || !bytes.Equal(got, all[r.From:end]) {
			t.Errorf("%v: %d bytes, %v", r, len(got), err)
		}
	}
	var beyond *media.RangeError
	if _, err := w.read(alice, "b.test", object, secret, media.Range{From: 1 << 30}); !errors.As(err, &beyond) || beyond.Size != int64(len(all)) {
		t.Error(err)
	}
	for _, q := range w.remote.asked {
		if q.Object != object || q.Secret != secret || q.Most > federation.MaxMediaPiece {
			t.Errorf("%+v", q)
		}
	}
	w.noFiles() // nothing of it stays here
}

// A reader that stops reading makes this server fetch two pieces and no more.
func TestFetchedAheadIsLittle(t *testing.T) {
	w := newWorld(t, media.Options{})
	alice, all := w.person("alice"), content(10*federation.MaxMediaPiece)
	w.remote.give = func(q federation.MediaQuestion) (*federation.MediaPiece, error) { return pieceOf(all, q), nil }
	st, err := w.Read(t.Context(), alice, "b.test", clearbox.ObjectID{1}, secret, media.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	st.Close() // waits for the fetcher
	if n := len(w.remote.asked); n > 2 {
		t.Errorf("%d pieces were fetched for a reader of one", n)
	}
}

// What a hostile origin may try in the middle of an object.
func TestHostileOrigin(t *testing.T) {
	w := newWorld(t, media.Options{})
	alice, all := w.person("alice"), content(2*federation.MaxMediaPiece)
	for what, give := range map[string]func(p *federation.MediaPiece) error{
		"another size":   func(p *federation.MediaPiece) error { p.Size++; return nil },
		"another digest": func(p *federation.MediaPiece) error { p.Digest[0]++; return nil },
		"gone":           func(*federation.MediaPiece) error { return clearbox.Errorf(clearbox.CodePeerUnreachable, "gone") },
	} {
		w.remote.give = func(q federation.MediaQuestion) (*federation.MediaPiece, error) {
			p := pieceOf(all, q)
			if q.From > 0 {
				if err := give(p); err != nil {
					return nil, err
				}
			}
			return p, nil
		}
		got, err := w.read(alice, "b.test", clearbox.ObjectID{1}, secret, media.Range{})
		code(t, what, err, clearbox.CodePeerUnreachable)
		if len(got) != federation.MaxMediaPiece {
			t.Errorf("%s: %d bytes were passed on", what, len(got))
		}
	}
	w.remote.give = func(federation.MediaQuestion) (*federation.MediaPiece, error) {
		return nil, clearbox.Errorf(clearbox.CodeNotFound, "gone")
	}
	_, err := w.read(alice, "b.test", clearbox.ObjectID{1}, secret, media.Range{})
	code(t, "deleted there", err, clearbox.CodeNotFound)
}

func TestReadsAtOneTime(t *testing.T) {
	w := newWorld(t, media.Options{})
	alice, bob := w.person("alice"), w.person("bob")
	w.put(alice, clearbox.ObjectID{1}, content(10))
	begin := func(p auth.Principal) (*media.Stream, error) {
		return w.Read(t.Context(), p, authtest.Server, clearbox.ObjectID{1}, secret, media.Range{})
	}
	var open []*media.Stream
	for range 4 {
		st, err := begin(alice)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, st)
	}
	_, err := begin(alice)
	code(t, "a fifth", err, clearbox.CodeRateLimited)
	st, err := begin(bob)
	if err != nil {
		t.Error("another account waits for it:", err)
	} else {
		st.Close()
	}
	for _, st := range open {
		st.Close()
	}
	if _, err := w.read(alice, authtest.Server, clearbox.ObjectID{1}, secret, media.Range{}); err != nil {
		t.Error(err)
	}
}

// A server without peers has nothing of elsewhere.
func TestNoFederation(t *testing.T) {
	w := newWorld(t, media.Options{})
	alice := w.person("alice")
	blobs, err := blob.Open(t.TempDir(), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.Service = media.New(w.Store, blobs, authtest.Server, media.Options{})
	_, err = w.read(alice, "b.test", clearbox.ObjectID{1}, secret, media.Range{})
	code(t, "elsewhere", err, clearbox.CodeUnknownPeer)
}
