package servertest

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
)

// Air carries packets between homeservers in memory, so that they can speak
// HTTP/3. What happens to a packet is drawn from a seed.
type Air struct {
	mu      sync.Mutex // guards what follows
	random  *rand.Rand
	sockets map[netip.AddrPort]*simnet.SimConn
	hosts   map[netip.Addr]string
	next    uint16
	weather map[[2]string]Weather // from one host to another
	cut     map[[2]string]bool    // of Partition and CutWay
	passed  Packets
}

// Weather is what happens to packets from one host to another.
type Weather struct {
	Drop   float64       // share of packets
	Double float64       // share of packets
	Delay  time.Duration // of every packet
	Jitter time.Duration // at most, more than Delay; lets packets overtake each other
}

// Packets counts what the Air did.
type Packets struct {
	Sent    int `json:"packets"`
	Dropped int `json:"packets_dropped"`
	Doubled int `json:"packets_doubled"`
	Delayed int `json:"packets_delayed"`
}

func newAir(seed uint64) *Air {
	return &Air{
		random: rand.New(rand.NewPCG(seed, 3)), sockets: map[netip.AddrPort]*simnet.SimConn{}, hosts: map[netip.Addr]string{}, next: 20_000,
		weather: map[[2]string]Weather{}, cut: map[[2]string]bool{},
	}
}

// Set changes what happens to packets from one host to another.
func (a *Air) Set(from, to string, w Weather) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.weather[[2]string{from, to}] = w
}

// Clear makes the weather fine everywhere. What is cut stays cut.
func (a *Air) Clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.weather)
}

// Passed tells what happened so far.
func (a *Air) Passed() Packets {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.passed
}

func (a *Air) setCut(from, to string, cut bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cut[[2]string{from, to}] = cut
}

func (a *Air) mendAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.weather)
	clear(a.cut)
}

// airSocket leaves the Air when it is closed.
type airSocket struct {
	*simnet.SimConn
	close func() error
}

func (s *airSocket) Close() error { return s.close() }

// listen opens a socket of host, whose address is ip. An address without a
// host, as ":0", gets a port of its own.
func (a *Air) listen(host string, ip netip.Addr, address string) (net.PacketConn, error) {
	name, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if name == "" && port == 0 {
		a.next++
		port = uint64(a.next)
	}
	at := netip.AddrPortFrom(ip, uint16(port))
	if a.sockets[at] != nil {
		return nil, errors.New("the address is in use")
	}
	conn := simnet.NewSimConn(net.UDPAddrFromAddrPort(at), a)
	a.sockets[at], a.hosts[ip] = conn, host
	return &airSocket{conn, func() error {
		a.mu.Lock()
		if a.sockets[at] == conn {
			delete(a.sockets, at)
		}
		a.mu.Unlock()
		return conn.Close()
	}}, nil
}

// AddNode implements simnet.Router; listen has done it already.
func (a *Air) AddNode(net.Addr, simnet.PacketReceiver) {}

// SendPacket implements simnet.Router.
func (a *Air) SendPacket(p simnet.Packet) error {
	from, to := addrPort(p.From), addrPort(p.To)
	a.mu.Lock()
	way := [2]string{a.hosts[from.Addr()], a.hosts[to.Addr()]}
	w := a.weather[way]
	a.passed.Sent++
	copies := 1
	if w.Double > a.random.Float64() {
		copies = 2
		a.passed.Doubled++
	}
	if w.Drop > a.random.Float64() || a.cut[way] {
		copies = 0
		a.passed.Dropped++
	}
	delays := make([]time.Duration, copies)
	for i := range delays {
		delays[i] = time.Millisecond + w.Delay
		if w.Jitter > 0 {
			delays[i] += time.Duration(a.random.Int64N(int64(w.Jitter)))
		}
		if w.Delay+w.Jitter > 0 {
			a.passed.Delayed++
		}
	}
	a.mu.Unlock()
	p.Data = append([]byte(nil), p.Data...)
	for _, d := range delays {
		time.AfterFunc(d, func() {
			a.mu.Lock()
			conn := a.sockets[to]
			a.mu.Unlock()
			if conn != nil {
				conn.RecvPacket(p)
			}
		})
	}
	return nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if udp, ok := a.(*net.UDPAddr); ok {
		at := udp.AddrPort()
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return netip.AddrPort{}
}
