package auth

import (
	"context"
	"io"
	"time"
)

// Names of this package's inside for its tests.
var (
	CheckPassword = checkPassword
	ContextWords  = contextWords
)

type Hasher struct{ *hasher }

func NewHasher(cost Argon, random io.Reader, gate, waiting int, wait time.Duration) Hasher {
	return Hasher{newHasher(cost, random, gate, waiting, wait)}
}

func (h Hasher) Hash(ctx context.Context, password string) (string, error) {
	return h.hash(ctx, password)
}

func (h Hasher) Verify(ctx context.Context, phc, password string) (bool, bool, error) {
	return h.verify(ctx, phc, password)
}

func (h Hasher) Enter(ctx context.Context) (func(), error) { return h.enter(ctx) }

func ReprintPHC(s string) (string, error) {
	h, err := parsePHC(s)
	return h.String(), err
}
