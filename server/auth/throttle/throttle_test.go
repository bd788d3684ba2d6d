package throttle_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func TestBucketsLimitEachKeyAlone(t *testing.T) {
	b := throttle.New(3, time.Minute, 0)
	for i := range 3 {
		if _, ok := b.Allow(start, "a"); !ok {
			t.Fatalf("take %d was refused", i+1)
		}
	}
	after, ok := b.Allow(start, "a")
	if ok || after != time.Minute {
		t.Fatalf("the fourth: allowed %t, wait %v, want a wait of a minute", ok, after)
	}
	if _, ok := b.Allow(start, "b"); !ok {
		t.Fatal("another key was refused")
	}
	if _, ok := b.Allow(start.Add(time.Minute), "a"); !ok {
		t.Fatal("refused after the wait it was told")
	}
}

func TestCheckTakesNothing(t *testing.T) {
	b := throttle.New(1, time.Minute, 0)
	for range 5 {
		if err := b.Check(start, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Take(start, "a"); err != nil {
		t.Fatal(err)
	}
	if err := b.Check(start, "a"); clearbox.CodeOf(err) != clearbox.CodeRateLimited {
		t.Fatalf("an empty bucket passed: %v", err)
	}
	if after, ok := throttle.RetryAfter(fmt.Errorf("wrapped: %w", b.Take(start, "a"))); !ok || after != time.Minute {
		t.Fatalf("retry after %v, %t", after, ok)
	}
}

func TestBucketsAreBoundedAndForgetTheOldest(t *testing.T) {
	b := throttle.New(1, time.Hour, 100)
	b.Allow(start, "first")
	for i := range 1000 {
		b.Allow(start, fmt.Sprint(i))
		if i == 50 {
			b.Allow(start, "first") // used again: no longer the oldest
		}
		if b.Len() > 100 {
			t.Fatalf("%d keys are remembered", b.Len())
		}
		if i == 120 {
			if _, ok := b.Allow(start, "first"); ok {
				t.Fatal("a key in use was forgotten")
			}
		}
	}
	if b.Len() != 100 {
		t.Fatalf("%d keys are remembered, want 100", b.Len())
	}
}
