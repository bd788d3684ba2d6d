package linking_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/linking"
)

var id = clearbox.MessageID{1}

const account = 7

func code(t *testing.T, what string, err error, want clearbox.Code) {
	t.Helper()
	if clearbox.CodeOf(err) != want {
		t.Errorf("%s: %v, want %q", what, err, want)
	}
}

// soon is a context that ends in a moment.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, s *linking.Service) {
	t.Helper()
	if _, err := s.Open(id, "address", []byte("announcement")); err != nil {
		t.Fatal(err)
	}
}

func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := linking.New(linking.Options{})
		open(t, s)
		open(t, s) // the answer was lost
		_, err := s.Open(id, "address", []byte("another"))
		code(t, "another announcement", err, clearbox.CodeConflict)
		got, err := s.Get(soon(t), id, linking.Newcomer, account, 0)
		if err != nil || len(got) != 1 || string(got[0].Body) != "announcement" || got[0].N != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		_, err = s.Account(id)
		code(t, "nobody's room", err, clearbox.CodeNotFound)

		heard := make(chan string)
		go func() {
			got, err := s.Get(t.Context(), id, linking.Owner, 0, 0)
			if err != nil || len(got) != 1 {
				t.Error(got, err)
			}
			heard <- string(got[0].Body)
		}()
		synctest.Wait()
		if err := s.Put(soon(t), id, linking.Owner, account, 1, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if h := <-heard; h != "hello" {
			t.Errorf("heard %q", h)
		}
		if err := s.Put(soon(t), id, linking.Owner, account, 1, []byte("hello")); err != nil {
			t.Errorf("the same again: %v", err)
		}
		code(t, "another first", s.Put(soon(t), id, linking.Owner, account, 1, []byte("other")), clearbox.CodeConflict)
		code(t, "the third before the second", s.Put(soon(t), id, linking.Owner, account, 3, []byte("x")), clearbox.CodeConflict)
		code(t, "another account", s.Put(soon(t), id, linking.Owner, account+1, 2, []byte("x")), clearbox.CodeNotFound)
		_, err = s.Get(soon(t), id, linking.Newcomer, account+1, 0)
		code(t, "another account listens", err, clearbox.CodeNotFound)
		if n, err := s.Account(id); err != nil || n != account {
			t.Errorf("the room is of %d, %v", n, err)
		}
		if got, err := s.Get(soon(t), id, linking.Owner, 0, 1); err != nil || len(got) != 0 {
			t.Errorf("nothing was said: %v, %v", got, err)
		}
		code(t, "no room", s.Put(soon(t), clearbox.MessageID{2}, linking.Newcomer, 0, 1, []byte("x")), clearbox.CodeNotFound)
	})
}

// TestWindow: the account's device waits while its messages are not fetched, and
// the new one cannot say much at all.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := linking.New(linking.Options{})
		open(t, s)
		for n := int64(1); n <= linking.Window; n++ {
			if err := s.Put(soon(t), id, linking.Owner, account, n, []byte("piece")); err != nil {
				t.Fatal(err)
			}
		}
		code(t, "a full room", s.Put(soon(t), id, linking.Owner, account, linking.Window+1, []byte("piece")), clearbox.CodeRateLimited)
		done := make(chan error)
		go func() { done <- s.Put(t.Context(), id, linking.Owner, account, linking.Window+1, []byte("piece")) }()
		synctest.Wait()
		if _, err := s.Get(soon(t), id, linking.Owner, 0, 1); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("with room again: %v", err)
		}
		for n := int64(2); n <= linking.NewMost; n++ {
			if err := s.Put(soon(t), id, linking.Newcomer, 0, n, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		code(t, "too much", s.Put(soon(t), id, linking.Newcomer, 0, linking.NewMost+1, []byte("x")), clearbox.CodeQuota)
	})
}

// TestRoomsEnd: after ten minutes, or two after the last message of the account's
// device, or an hour; then their memory is free.
func TestRoomsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := linking.New(linking.Options{MaxBytes: 100})
		open(t, s)
		time.Sleep(linking.Life - time.Second)
		if err := s.Put(soon(t), id, linking.Owner, account, 1, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error)
		go func() {
			_, err := s.Get(t.Context(), id, linking.Owner, 0, 1)
			waiting <- err
		}()
		time.Sleep(linking.LifeBusy - time.Second)
		if err := s.Put(soon(t), id, linking.Newcomer, 0, 2, []byte("x")); err != nil {
			t.Errorf("before its end: %v", err)
		}
		time.Sleep(2 * time.Second)
		_, err := s.Get(soon(t), id, linking.Owner, 0, 0)
		code(t, "after its end", err, clearbox.CodeNotFound)
		code(t, "who waited", <-waiting, clearbox.CodeNotFound)
		if _, err := s.Open(clearbox.MessageID{3}, "address", make([]byte, 100)); err != nil {
			t.Errorf("with its memory free: %v", err)
		}
		_, err = s.Open(clearbox.MessageID{4}, "other", make([]byte, 1))
		code(t, "no memory", err, clearbox.CodeUnavailable)
	})
}

// TestRoomsAreFew: of an address, and in all.
func TestRoomsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := linking.New(linking.Options{PerAddress: 3, Rooms: 5})
		opened := func(n byte, client string) error {
			_, err := s.Open(clearbox.MessageID{n}, client, []byte("x"))
			return err
		}
		for n := range byte(3) {
			if err := opened(n, "a"); err != nil {
				t.Fatal(err)
			}
		}
		code(t, "a fourth of an address", opened(3, "a"), clearbox.CodeRateLimited)
		for n := byte(3); n < 5; n++ {
			if err := opened(n, fmt.Sprint("b", n)); err != nil {
				t.Fatal(err)
			}
		}
		code(t, "a sixth in all", opened(5, "c"), clearbox.CodeUnavailable)
		time.Sleep(linking.Life)
		if err := opened(5, "c"); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}
