package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/bench/rig"
	"github.com/clearbox-im/clearbox/server/wire"
)

// mediaLine is a line of media. Keys are only ever added.
type mediaLine struct {
	Scenario string  `json:"scenario"`
	MiB      int     `json:"mib"`
	Up       float64 `json:"up_mib_per_s"`       // in parts, each synced, and the end
	Down     float64 `json:"down_mib_per_s"`     // at the own server
	FedDown  float64 `json:"fed_down_mib_per_s"` // through another server
	CPU      float64 `json:"srv_cpu_s_per_gib"`  // of both servers, by bytes that clients sent or read
	RSS      float64 `json:"srv_rss_mib"`        // the larger server's peak
	Errors   int64   `json:"errors"`

	Growth float64   `json:"rss_growth_100_mib"` // of the larger server, while 100 MiB pass both
	Runs   []float64 `json:"runs_fed_down_mib_per_s"`
}

const (
	mediaMiB   = 20
	mediaLarge = 100 // the largest that is shipped
	mediaPart  = 4 << 20
)

// media uploads a file, reads it at its own server and through another one.
func (b *bench) media(ctx context.Context) error {
	one, two, senders, recipients, err := b.houses(ctx, "media", 1)
	if err != nil {
		return err
	}
	defer b.discard(one)
	defer b.discard(two)
	t := &transfer{near: one.Client(rig.Via{}), far: two.Client(rig.Via{}), owner: senders[0], reader: recipients[0]}
	defer t.near.Close()
	defer t.far.Close()
	before, err := costs([]*rig.Server{one, two})
	if err != nil {
		return err
	}
	line := mediaLine{Scenario: "media", MiB: mediaMiB}
	var ups, downs []float64
	for range b.runs {
		up, down, far, err := t.run(ctx, mediaMiB)
		if err != nil {
			line.Errors++
			fmt.Println(err)
			continue
		}
		ups, downs, line.Runs = append(ups, up), append(downs, down), append(line.Runs, round(far, 1))
	}
	after, err := costs([]*rig.Server{one, two})
	if err != nil {
		return err
	}
	line.CPU = round((after.cpu-before.cpu)*1024/float64(3*mediaMiB*b.runs), 2)
	watches, start := []*rssWatch{watchRSS(one), watchRSS(two)}, []float64{0, 0}
	for i, s := range []*rig.Server{one, two} {
		c, err := rig.CostOf(s.PID())
		if err != nil {
			return err
		}
		start[i] = c.RSS
	}
	if _, _, _, err := t.run(ctx, mediaLarge); err != nil {
		line.Errors++
		fmt.Println(err)
	}
	for i, w := range watches {
		line.Growth = max(line.Growth, round(w.stop()-start[i], 1))
	}
	if after, err = costs([]*rig.Server{one, two}); err != nil {
		return err
	}
	line.RSS = round(after.peak, 1)
	line.Up, line.Down, line.FedDown = round(median(ups), 1), round(median(downs), 1), median(line.Runs)
	return print(line)
}

// transfer is who sends and who reads.
type transfer struct {
	near, far     *rig.Client
	owner, reader *rig.Account
}

// run gives MiB a second of each way.
func (t *transfer) run(ctx context.Context, mib int) (up, down, far float64, err error) {
	all := make([]byte, mib<<20)
	var secret [32]byte
	object, err := clearbox.NewObjectID(rand.Reader)
	if err != nil {
		return 0, 0, 0, err
	}
	rand.Read(all)
	rand.Read(secret[:])
	speed := func(began time.Time) float64 { return float64(mib) / time.Since(began).Seconds() }
	began := time.Now()
	if err := t.upload(ctx, object, secret, all); err != nil {
		return 0, 0, 0, err
	}
	up, began = speed(began), time.Now()
	if err := download(ctx, t.near, t.owner.Access, t.owner.User.Server, object, secret, all); err != nil {
		return 0, 0, 0, err
	}
	down, began = speed(began), time.Now()
	if err := download(ctx, t.far, t.reader.Access, t.owner.User.Server, object, secret, all); err != nil {
		return 0, 0, 0, err
	}
	far = speed(began)
	return up, down, far, t.near.Do(ctx, http.MethodDelete, "/media/"+object.String(), t.owner.Access, nil, nil)
}

func (t *transfer) upload(ctx context.Context, object clearbox.ObjectID, secret [32]byte, all []byte) error {
	hash, digest, path := sha256.Sum256(secret[:]), sha256.Sum256(all), "/media/"+object.String()
	err := t.near.Do(ctx, http.MethodPost, "/media", t.owner.Access, &wire.NewMedia{Object: object, Size: int64(len(all)), Reader: hash[:]}, nil)
	if err != nil {
		return err
	}
	for at := 0; at < len(all); at += mediaPart {
		part := all[at:min(at+mediaPart, len(all))]
		res, err := t.near.Stream(ctx, http.MethodPut, fmt.Sprintf("%s?offset=%d", path, at), t.owner.Access, map[string]string{"Content-Type": "application/octet-stream"}, bytes.NewReader(part))
		if err != nil {
			return err
		}
		res.Body.Close()
	}
	return t.near.Do(ctx, http.MethodPost, path, t.owner.Access, &wire.MediaFinish{Digest: digest[:]}, nil)
}

func download(ctx context.Context, c *rig.Client, token string, server clearbox.ServerName, object clearbox.ObjectID, secret [32]byte, want []byte) error {
	res, err := c.Stream(ctx, http.MethodGet, "/media/"+string(server)+"/"+object.String(), token,
		map[string]string{wire.HeaderMediaSecret: base64.RawURLEncoding.EncodeToString(secret[:])}, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	h := sha256.New()
	if n, err := io.Copy(h, res.Body); err != nil || n != int64(len(want)) {
		return fmt.Errorf("%d of %d bytes came: %w", n, len(want), err)
	}
	if [32]byte(h.Sum(nil)) != sha256.Sum256(want) {
		return fmt.Errorf("other bytes came than were sent")
	}
	return nil
}
