package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/storage"
)

// calibLine says what this machine can do, so that bars from another one can
// be scaled. Keys are only ever added.
type calibLine struct {
	Scenario string  `json:"scenario"`
	SQLite   float64 `json:"sqlite_batch32_per_s"` // rows of 1.5 KiB, 32 to a commit, WAL FULL
	SQLiteUS float64 `json:"sqlite_cpu_us"`
	Echo     float64 `json:"tls_echo_per_s"` // 1 KiB over WebSocket and TLS 1.3, 50 connections, both ends here
	EchoUS   float64 `json:"tls_echo_cpu_us"`
	Sync     float64 `json:"append_sync_per_s"` // 1.5 KiB appended and synced, one at a time
}

func (b *bench) calib(ctx context.Context) error {
	var l calibLine
	l.Scenario = "calib"
	var err error
	if l.SQLite, l.SQLiteUS, err = b.calibSQLite(ctx); err != nil {
		return err
	}
	if l.Echo, l.EchoUS, err = b.calibEcho(ctx); err != nil {
		return err
	}
	if l.Sync, err = b.calibSync(ctx); err != nil {
		return err
	}
	return print(l)
}

const calibTime = time.Second

// calibSQLite appends rows through the store itself, which is the only place
// with SQL: a key and 1.5 KiB each, 32 in one update, one sync per update.
func (b *bench) calibSQLite(ctx context.Context) (perS, us float64, err error) {
	srv, err := b.server("calib", "a.test")
	if err != nil {
		return 0, 0, err
	}
	defer b.discard(srv)
	store, people, err := srv.OpenStore(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer people.Close()
	defer store.Close()
	value := make([]byte, 1536)
	rand.Read(value)
	n := 0
	return calibRun(ctx, func() (int, error) {
		err := store.Update(ctx, func(tx *storage.Tx) error {
			for i := range 32 {
				if err := tx.SetServerState(fmt.Sprintf("calib/%08d", n+i), value); err != nil {
					return err
				}
			}
			return nil
		})
		n += 32
		return 32, err
	})
}

// calibRun repeats step for a while and gives operations a second and the CPU
// time of one in microseconds.
func calibRun(ctx context.Context, step func() (int, error)) (perS, us float64, err error) {
	cpu, err := rig.OwnCPU()
	if err != nil {
		return 0, 0, err
	}
	began, n := time.Now(), 0
	for time.Since(began) < calibTime && ctx.Err() == nil {
		k, err := step()
		if err != nil {
			return 0, 0, err
		}
		n += k
	}
	took := time.Since(began).Seconds()
	end, err := rig.OwnCPU()
	return round(float64(n)/took, 0), round((end-cpu)/float64(n)*1e6, 1), errors.Join(err, ctx.Err())
}

func (b *bench) calibSync(ctx context.Context) (float64, error) {
	f, err := os.Create(filepath.Join(b.dir, "calib.sync"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 1536)
	perS, _, err := calibRun(ctx, func() (int, error) {
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		return 1, f.Sync()
	})
	return perS, err
}

// calibEcho bounces 1 KiB messages on 50 connections with the WebSocket
// library that server and client use.
func (b *bench) calibEcho(ctx context.Context) (perS, us float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg, err := b.authority.Server("a.test")
	if err != nil {
		return 0, 0, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	server := &http.Server{Handler: http.HandlerFunc(echo), TLSConfig: cfg, ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(tls.NewListener(l, cfg))
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: b.authority.Pool(), MinVersion: tls.VersionTLS13, ServerName: "a.test"}}}
	var conns []*websocket.Conn
	defer func() {
		for _, c := range conns {
			c.CloseNow()
		}
	}()
	for range 50 {
		c, _, err := websocket.Dial(ctx, "wss://"+l.Addr().String(), &websocket.DialOptions{HTTPClient: client})
		if err != nil {
			return 0, 0, err
		}
		conns = append(conns, c)
	}
	var n atomic.Int64
	var wg sync.WaitGroup
	cpu, err := rig.OwnCPU()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	var failed atomic.Pointer[error]
	for _, c := range conns {
		wg.Go(func() {
			message := make([]byte, 1024)
			for time.Since(began) < calibTime {
				err := c.Write(ctx, websocket.MessageBinary, message)
				if err == nil {
					_, _, err = c.Read(ctx)
				}
				if err != nil {
					failed.Store(&err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	end, err := rig.OwnCPU()
	if p := failed.Load(); p != nil {
		err = *p
	}
	return round(float64(n.Load())/took, 0), round((end-cpu)/float64(n.Load())*1e6, 1), err
}

func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil || c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}
