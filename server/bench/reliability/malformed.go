package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/clearbox-im/clearbox/server/bench/rig"
)

// malformedLine is what malformed prints. Keys are only ever added.
type malformedLine struct {
	Test       string                    `json:"test"`
	Inputs     int                       `json:"inputs"`
	Recomputed int                       `json:"recomputed"`      // whose signatures, digests or checksums were made anew, of those that have one
	Sealed     int                       `json:"with_signatures"` // inputs that have one
	FirstLayer int                       `json:"first_layer"`     // that were well-formed for the first decoder
	Panics     int                       `json:"panics"`
	Hangs      int                       `json:"hangs"`
	Slowest    float64                   `json:"slowest_ms"` // also when the machine was busy
	Growth     float64                   `json:"growth_mib"`
	Codes      map[string]map[string]int `json:"codes"` // per parser
}

const (
	malformedInputs = 1_000_000
	hang            = 100 * time.Millisecond
)

// attempt is one input: what it is made of and what the parser does with it.
type attempt struct {
	sealed, recomputed bool
	run                func() (first bool, code string)
}

// parser is one of the doors that strangers reach.
type parser struct {
	name    string
	percent int // of all inputs
	make    func(*rand.Rand) attempt
}

// malformed is R9: mutations of valid inputs against every parser that a
// stranger reaches, with signatures made anew in half of them, since a parser
// behind a signature is otherwise never met.
func (s *suite) malformed(ctx context.Context) (verdict, error) {
	v := verdict{}
	parsers, err := malformedParsers(s.random("malformed goldens"))
	if err != nil {
		return v, err
	}
	line := malformedLine{Test: "malformed", Codes: map[string]map[string]int{}}
	warm := malformedLine{Codes: map[string]map[string]int{}}
	for i, p := range parsers { // caches and pools are no growth
		if err := assault(ctx, p, 2000*p.percent/100+20, s.random(fmt.Sprint("warm", i)), &warm, new(sync.Mutex)); err != nil {
			return v, err
		}
	}
	before, err := resident()
	if err != nil {
		return v, err
	}
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		fails []error
		most  float64
	)
	const pieces = 20
	n := s.scaled(malformedInputs)
	work := make(chan func() error)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for job := range work {
				if err := job(); err != nil {
					mu.Lock()
					fails = append(fails, err)
					mu.Unlock()
				}
			}
		})
	}
	for piece := range pieces {
		for _, p := range parsers {
			r := s.random(fmt.Sprint("malformed", p.name, piece))
			work <- func() error { return assault(ctx, p, n*p.percent/100/pieces, r, &line, &mu) }
		}
		now, err := resident()
		if err != nil {
			fails = append(fails, err)
		}
		most = max(most, now)
	}
	close(work)
	wg.Wait()
	line.Growth = tidy(max(0, most-before))
	v.line = line
	v.demand(line.Inputs >= n, "only %d of %d inputs", line.Inputs, n)
	v.demand(line.FirstLayer*100 >= 30*line.Inputs, "only %d of %d passed the first decode layer", line.FirstLayer, line.Inputs)
	v.demand(line.Recomputed*100 >= 45*line.Sealed, "signatures were made anew in only %d of %d", line.Recomputed, line.Sealed)
	v.demand(line.Panics == 0, "%d panics", line.Panics)
	v.demand(line.Hangs == 0, "%d inputs took longer than %s", line.Hangs, hang)
	v.demand(line.Growth <= 32, "memory grew by %.1f MiB", line.Growth)
	return v, errors.Join(fails...)
}

// resident is this process's memory in MiB once garbage was given back.
func resident() (float64, error) {
	debug.FreeOSMemory()
	c, err := rig.CostOf(os.Getpid())
	return c.RSS, err
}

// assault makes n attempts and adds to line.
func assault(ctx context.Context, p parser, n int, r *rand.Rand, line *malformedLine, mu *sync.Mutex) error {
	got := malformedLine{}
	codes := map[string]int{}
	for i := range n {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		a := p.make(r)
		first, code, panicked, took := judge(a)
		got.Inputs++
		codes[code]++
		if a.sealed {
			got.Sealed++
		}
		if a.recomputed {
			got.Recomputed++
		}
		if first {
			got.FirstLayer++
		}
		if panicked != "" {
			got.Panics++
			fmt.Fprintf(os.Stderr, "malformed: %s panics: %s\n", p.name, panicked)
		}
		got.Slowest = max(got.Slowest, tidy(float64(took.Microseconds())/1000))
		// A busy machine pauses anybody: only what is slow every time hangs.
		for again := 0; took > hang && again < 4; again++ {
			_, _, _, t := judge(a)
			took = min(took, t)
		}
		if took > hang {
			got.Hangs++
			fmt.Fprintf(os.Stderr, "malformed: %s takes %s\n", p.name, took)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	line.Inputs += got.Inputs
	line.Sealed += got.Sealed
	line.Recomputed += got.Recomputed
	line.FirstLayer += got.FirstLayer
	line.Panics += got.Panics
	line.Hangs += got.Hangs
	line.Slowest = max(line.Slowest, got.Slowest)
	if line.Codes[p.name] == nil {
		line.Codes[p.name] = map[string]int{}
	}
	for c, n := range codes {
		line.Codes[p.name][c] += n
	}
	return nil
}

func judge(a attempt) (first bool, code, panicked string, took time.Duration) {
	began := time.Now()
	defer func() {
		took = time.Since(began)
		if p := recover(); p != nil {
			code, panicked = "panic", fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	first, code = a.run()
	return first, code, "", 0
}

// damage changes bytes: flips, overwrites, removals, insertions, repeats, cuts.
func damage(r *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for range 1 + r.IntN(4) {
		if len(b) == 0 {
			return []byte{byte(r.Uint32())}
		}
		at := r.IntN(len(b))
		end := min(len(b), at+1+r.IntN(8))
		switch r.IntN(8) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			b[at] = odd[r.IntN(len(odd))]
		case 3:
			b = slices.Delete(b, at, end)
		case 4:
			b = slices.Insert(b, at, b[at:end]...)
		case 5:
			b = slices.Insert(b, at, odd[r.IntN(len(odd))])
		case 6:
			for i := at; i < end; i++ {
				b[i] = 0xff
			}
		default:
			if r.IntN(4) == 0 {
				b = b[:at]
			}
		}
	}
	return b
}

// odd are bytes that mean something in JSON, CBOR, YAML or headers.
var odd = []byte("\x00\n\r\t \"\\{}[],:;=&*!|>-#?'0123456789eE+u/\x18\x19\x1a\x1b\x5f\x7f\x80\x9f\xbf\xc0\xf6\xf7\xfb\xff")
