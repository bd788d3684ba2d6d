package transport

import "time"

// Rules of the comparison between protocols.
const (
	bigRequest  = 16 << 10 // bytes; a smaller request says nothing about goodput
	sizeClasses = 3        // 16 KiB, 64 KiB, 256 KiB and above
	enough      = 4        // samples of one class before it counts
	better      = 1.25     // how much faster is measurably faster
)

// goodput is how fast requests of each size class were answered over one
// protocol. Sizes are kept apart: a small one measures the round trip, a large
// one the bandwidth, and the two protocols may have carried different mixtures.
type goodput [sizeClasses]struct {
	n    int
	rate float64 // bytes a second, moving average
}

func sizeClass(n int64) int {
	switch {
	case n < 64<<10:
		return 0
	case n < 256<<10:
		return 1
	}
	return 2
}

// add takes one request of n bytes that was answered after took.
func (g *goodput) add(n int64, took time.Duration) {
	if n < bigRequest {
		return
	}
	c := &g[sizeClass(n)]
	rate := float64(n) / max(took, time.Microsecond).Seconds()
	c.n++
	weight := max(1/float64(c.n), 1.0/8)
	c.rate += weight * (rate - c.rate)
}

func (g *goodput) samples() (n int) {
	for i := range g {
		n += g[i].n
	}
	return n
}

// against is how many times as fast g is as other, 1 when too little is known.
func (g *goodput) against(other *goodput) float64 {
	ratio, classes := 0.0, 0
	for i := range g {
		if g[i].n >= enough && other[i].n >= enough {
			ratio += g[i].rate / other[i].rate
			classes++
		}
	}
	if classes == 0 {
		return 1
	}
	return ratio / float64(classes)
}

// mean is the average over the classes in bytes a second, for people to read.
func (g *goodput) mean() float64 {
	sum, n := 0.0, 0
	for i := range g {
		sum += g[i].rate * float64(g[i].n)
		n += g[i].n
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}
