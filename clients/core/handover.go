package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/crypto/keys"
	"github.com/clearbox-im/clearbox/crypto/vault"
	"github.com/clearbox-im/clearbox/server/wire"
)

// Link hands the account over to the device that shows code. confirm is asked
// whether the new device shows the same confirmation; nothing secret leaves before
// it says yes. The vault's history goes with it. Its errors are
// ErrLinkSwapped where the server offers another device's key; ErrLinkRefused
// where confirm said no; CodeQuota where the account has all devices it can have.
func (b *Brain) Link(ctx context.Context, code string, confirm func(context.Context, vault.Confirmation) (bool, error)) (Linked, error) {
	s, err := b.me()
	if err != nil {
		return Linked{}, err
	}
	offer, err := vault.ParseOffer(code)
	if err != nil {
		return Linked{}, clearbox.Wrap(clearbox.CodeBadRequest, "this is not the code of a device that wants to be linked", err)
	}
	if offer.Server != string(s.User.Server) {
		return Linked{}, clearbox.Errorf(clearbox.CodeBadRequest, "that device wants to be linked at %s, and you are at %s", offer.Server, s.User.Server)
	}
	if _, err := b.Devices(ctx); err != nil {
		return Linked{}, err
	}
	if s, err = b.me(); err != nil {
		return Linked{}, err
	}
	if s.Missed {
		return Linked{}, ErrMissedRenewal
	}
	if len(s.list.Active())-len(s.Withdrawn) >= keys.MaxActiveDevices {
		return Linked{}, clearbox.Errorf(clearbox.CodeQuota, "an account has at most %d devices: remove one first", keys.MaxActiveDevices)
	}
	h := &handover{b: b, s: s, room: room{b: b, id: offer.ID, own: true}}
	sealer, err := h.meet(ctx, offer, confirm)
	if err != nil {
		return Linked{}, err
	}
	return h.give(ctx, sealer)
}

// handover is the own side of linking.
type handover struct {
	b    *Brain
	s    *self
	room room
	p    provision
}

// meet speaks with the new device until the person has confirmed it.
func (h *handover) meet(ctx context.Context, offer *vault.Offer, confirm func(context.Context, vault.Confirmation) (bool, error)) (*vault.Linker, error) {
	announcement, err := h.room.hear(ctx)
	if err != nil {
		return nil, err
	}
	linker, hello, err := vault.Answer(offer, announcement)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadSignature, ErrLinkSwapped.Error(), errors.Join(ErrLinkSwapped, err))
	}
	if err := h.room.say(ctx, hello); err != nil {
		return nil, err
	}
	number, err := h.room.hear(ctx)
	if err != nil {
		return nil, err
	}
	shown, err := linker.Reveal(number)
	if err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadSignature, ErrLinkSwapped.Error(), errors.Join(ErrLinkSwapped, err))
	}
	yes, err := confirm(ctx, shown)
	if err == nil && !yes {
		err = ErrLinkRefused
	}
	if err != nil {
		_ = h.room.say(context.WithoutCancel(ctx), linkRefused) // the other side would find out by itself
		return nil, err
	}
	return linker, nil
}

// give hands everything over and has the new device listed.
func (h *handover) give(ctx context.Context, linker *vault.Linker) (Linked, error) {
	b := h.b
	all, order, err := h.provide(ctx)
	if err != nil {
		return Linked{}, err
	}
	plain, err := recordOut.Marshal(&h.p)
	if err != nil {
		return Linked{}, err
	}
	sealed, err := linker.Seal(plain)
	if err != nil {
		return Linked{}, err
	}
	if err := h.room.say(ctx, sealed); err != nil {
		return Linked{}, err
	}
	if err := h.send(ctx, contextHistory, nil, all); err != nil {
		return Linked{}, err
	}
	mine, err := h.heed(ctx)
	if err != nil {
		return Linked{}, err
	}
	list, err := h.enlist(ctx, mine)
	if err != nil {
		return Linked{}, err
	}
	out := Linked{Device: h.p.Device, Name: mine.Name, Messages: messagesIn(all)}
	// What senders wrote before they saw the list is in this device's mailbox.
	err = b.Drain(ctx)
	if errors.Is(err, ErrRunning) {
		err = pause(ctx, linkLinger) // Run takes it in as it comes
	}
	if err != nil {
		return out, err
	}
	var late []record
	err = b.vault.View(ctx, func(r Reader) error {
		late, err = gather(r, order)
		return err
	})
	if err != nil {
		return out, err
	}
	out.Messages += messagesIn(late)
	first, err := recordOut.Marshal(&tail{List: list})
	if err != nil {
		return out, err
	}
	if err := h.send(ctx, contextTail, first, late); err != nil {
		return out, err
	}
	if _, err := h.room.hear(ctx); err != nil {
		return out, fmt.Errorf("device %d is on the list and did not say that it is ready; if it does not work, remove it and link again: %w", h.p.Device, err)
	}
	return out, nil
}

func messagesIn(all []record) (n int) {
	for _, one := range all {
		if len(one.Key) > len(prefixMsg) && one.Key[:len(prefixMsg)] == prefixMsg {
			n++
		}
	}
	return n
}

// provide gathers what is handed over, and up to which order.
func (h *handover) provide(ctx context.Context) (all []record, order uint64, err error) {
	b, s := h.b, h.s
	h.p = provision{
		User: s.User, Handle: s.Handle, Identity: s.Identity, Root: s.Root, List: s.List,
		Device: clearbox.DeviceID(s.list.NextID()), History: make([]byte, 32), Reply: make([]byte, 32),
	}
	for _, secret := range [][]byte{h.p.History, h.p.Reply} {
		if _, err := io.ReadFull(b.opts.Random, secret); err != nil {
			return nil, 0, err
		}
	}
	if err := b.uploadToken(ctx); err != nil {
		return nil, 0, err
	}
	err = b.vault.View(ctx, func(r Reader) error {
		token, err := load[ownToken](r, keyOwnToken)
		if err != nil {
			return err
		}
		h.p.Token = token.Token
		if h.p.Archive, err = load[archiveKeys](r, keyArchive); err != nil {
			return err
		}
		if order, err = count(r, keyOrder); err != nil {
			return err
		}
		h.p.Order = nextGeneration(order)
		all, err = gather(r, 0)
		return err
	})
	return all, order, err
}

// send seals records into a container and leaves it in the room piece by piece.
func (h *handover) send(ctx context.Context, named string, first []byte, all []record) error {
	out := &cutter{ctx: ctx, room: &h.room}
	w, err := vault.NewWriter(out, h.b.opts.Random, h.p.History, vault.Header{Kind: vault.KindHistory}, []byte(named))
	if err != nil {
		return err
	}
	if first != nil {
		if err := w.WriteFrame(first); err != nil {
			return err
		}
	}
	if err := writeRecords(w, all); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.end()
}

// heed reads what the new device is to be listed with.
func (h *handover) heed(ctx context.Context) (*reply, error) {
	body, err := h.room.hear(ctx)
	if err != nil {
		return nil, err
	}
	r, err := vault.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, tampered(err)
	}
	if err := r.Open(h.p.Reply, []byte(contextReply)); err != nil {
		return nil, clearbox.Wrap(clearbox.CodeBadSignature, "the keys of the new device were tampered with", err)
	}
	frame, err := r.Next()
	if err != nil {
		return nil, tampered(err)
	}
	return parse[reply](frame)
}

// enlist signs the list with the new device and gives it to the server.
func (h *handover) enlist(ctx context.Context, mine *reply) ([]byte, error) {
	added := wire.AddedDevice{Device: h.p.Device, Name: mine.Name}
	if err := wire.Decode(wire.CBOR, mine.Keys, &added.Keys); err != nil {
		return nil, err
	}
	return h.b.publish(ctx, func(l *keys.DeviceList, now int64) error {
		if clearbox.DeviceID(l.NextID()) != h.p.Device {
			return clearbox.Errorf(clearbox.CodeConflict, "another device was linked meanwhile: begin again")
		}
		strike(l, now, h.s.Withdrawn)
		l.Devices = append(l.Devices, keys.DeviceEntry{ID: uint8(h.p.Device), Registration: mine.Registration, Key: mine.Key, Added: now})
		return nil
	}, added)
}
