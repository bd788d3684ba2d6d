package auth

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/auth/throttle"
)

// Argon is the cost of one password check. A hash carries the parameters it was
// made with, so they may change at any time; a login brings the hash up to date.
type Argon struct {
	MemoryKiB  uint32 // 0: 65536
	Iterations uint32 // 0: 3
	Lanes      uint8  // 0: 4
}

// RFC 9106, 4: the second recommended option, 64 MiB, three passes, four lanes.
func (a Argon) orDefault() Argon {
	if a.MemoryKiB == 0 {
		a.MemoryKiB = 64 << 10
	}
	if a.Iterations == 0 {
		a.Iterations = 3
	}
	if a.Lanes == 0 {
		a.Lanes = 4
	}
	return a
}

const (
	argonSaltSize = 16
	argonKeySize  = 32
	argonMaxKiB   = 4 << 20 // of a stored hash: what a damaged row may ask for
	argonMaxPass  = 100
)

// passwordHash is a parsed PHC string.
type passwordHash struct {
	cost Argon
	salt []byte
	key  []byte
}

var phcBase64 = base64.RawStdEncoding.Strict()

// String is the PHC string format of argon2id.
func (h passwordHash) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.cost.MemoryKiB, h.cost.Iterations,
		h.cost.Lanes, phcBase64.EncodeToString(h.salt), phcBase64.EncodeToString(h.key))
}

var errPHC = errors.New("auth: malformed password hash")

// parsePHC accepts what String writes and nothing else.
func parsePHC(s string) (passwordHash, error) {
	var h passwordHash
	part := strings.Split(s, "$")
	if len(s) > 256 || len(part) != 6 || part[0] != "" || part[1] != "argon2id" || part[2] != "v="+strconv.Itoa(argon2.Version) {
		return h, errPHC
	}
	cost := strings.Split(part[3], ",")
	if len(cost) != 3 {
		return h, errPHC
	}
	number := func(s, name string, limit uint64) uint64 {
		digits, ok := strings.CutPrefix(s, name+"=")
		n, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || n > limit || strconv.FormatUint(n, 10) != digits {
			return 0
		}
		return n
	}
	h.cost = Argon{
		MemoryKiB:  uint32(number(cost[0], "m", argonMaxKiB)),
		Iterations: uint32(number(cost[1], "t", argonMaxPass)),
		Lanes:      uint8(number(cost[2], "p", 64)),
	}
	if h.cost.MemoryKiB == 0 || h.cost.Iterations == 0 || h.cost.Lanes == 0 {
		return h, errPHC
	}
	if strings.ContainsAny(s, "\r\n") { // which the decoder would ignore
		return h, errPHC
	}
	var err1, err2 error
	h.salt, err1 = phcBase64.DecodeString(part[4])
	h.key, err2 = phcBase64.DecodeString(part[5])
	if err1 != nil || err2 != nil || len(h.salt) < 8 || len(h.key) != argonKeySize {
		return h, errPHC
	}
	return h, nil
}

// hasher makes and checks password hashes. Each costs much memory, so only a few
// run at a time and only so many wait.
type hasher struct {
	cost   Argon
	random io.Reader
	run    chan struct{} // capacity: hashes at a time
	queue  chan struct{} // capacity: those running and those waiting
	wait   time.Duration // longest wait
}

func newHasher(cost Argon, random io.Reader, gate, waiting int, wait time.Duration) *hasher {
	return &hasher{
		cost: cost.orDefault(), random: random, wait: wait,
		run: make(chan struct{}, gate), queue: make(chan struct{}, gate+waiting),
	}
}

// enter waits for a place. Too many waiting is rate_limited, too long a wait is
// unavailable; both say when to come back.
func (h *hasher) enter(ctx context.Context) (leave func(), err error) {
	select {
	case h.queue <- struct{}{}:
	default:
		return nil, throttle.Limited(h.wait)
	}
	timer := time.NewTimer(h.wait)
	defer timer.Stop()
	select {
	case h.run <- struct{}{}:
		return func() { <-h.run; <-h.queue }, nil
	case <-timer.C:
		err = &throttle.Error{Code: clearbox.CodeUnavailable, After: h.wait, Text: "the server is busy; try again"}
	case <-ctx.Done():
		err = clearbox.Wrap(clearbox.CodeUnavailable, "the request was given up", ctx.Err())
	}
	<-h.queue
	return nil, err
}

// hash makes the PHC string of an acceptable password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, argonSaltSize)
	if _, err := io.ReadFull(h.random, salt); err != nil {
		return "", fmt.Errorf("draw a salt: %w", err)
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	return passwordHash{h.cost, salt, h.derive(password, h.cost, salt)}.String(), nil
}

// verify tells whether password belongs to phc, and whether phc was made at
// another cost than today's. An empty phc belongs to nobody and costs as much as
// a real one, so that answers take the same time for names that do not exist.
func (h *hasher) verify(ctx context.Context, phc, password string) (ok, outdated bool, err error) {
	stored := passwordHash{cost: h.cost, salt: make([]byte, argonSaltSize), key: make([]byte, argonKeySize)}
	if phc != "" {
		if stored, err = parsePHC(phc); err != nil {
			return false, false, err
		}
	}
	if len(password) > MaxPassword || !utf8.ValidString(password) {
		password = "" // the work is done all the same
		phc = ""
	}
	leave, err := h.enter(ctx)
	if err != nil {
		return false, false, err
	}
	defer leave()
	same := subtle.ConstantTimeCompare(h.derive(password, stored.cost, stored.salt), stored.key) == 1
	return same && phc != "", stored.cost != h.cost, nil
}

func (h *hasher) derive(password string, cost Argon, salt []byte) []byte {
	return argon2.IDKey([]byte(normal(password)), salt, cost.Iterations, cost.MemoryKiB, cost.Lanes, argonKeySize)
}

// normal makes the same password of the same keys on every keyboard.
// NIST SP 800-63B-4, 3.1.1.2: normalisation by NFKC before hashing.
func normal(password string) string { return norm.NFKC.String(password) }
