package peering

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/clearbox-im/clearbox"
	"github.com/clearbox-im/clearbox/server/wire"
	"github.com/clearbox-im/clearbox/storage"
	"golang.org/x/net/publicsuffix"
)

const wildcard = "*." // before a domain: that one and all below it

// Blocked tells why nothing is exchanged with the server, if it is blocked.
func (t *Table) Blocked(server clearbox.ServerName) (reason string, blocked bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	b, blocked := t.blockOf(server)
	return b.Reason, blocked
}

// blockOf needs mu.
func (t *Table) blockOf(server clearbox.ServerName) (storage.PeerBlock, bool) {
	if len(t.blocks) == 0 {
		return storage.PeerBlock{}, false
	}
	now := t.o.Now().UnixMilli()
	name := string(server)
	if b, ok := t.blocks[name]; ok && inForce(b, now) {
		return b, true
	}
	for rest := name; rest != ""; {
		if b, ok := t.blocks[wildcard+rest]; ok && inForce(b, now) {
			return b, true
		}
		_, rest, _ = strings.Cut(rest, ".")
	}
	return storage.PeerBlock{}, false
}

func inForce(b storage.PeerBlock, now int64) bool { return b.Expires == 0 || int64(b.Expires) > now }

// readBlocks makes the copy in memory what is stored.
func (t *Table) readBlocks(ctx context.Context) error {
	var list []storage.PeerBlock
	err := t.store.View(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.PeerBlocks()
		return err
	})
	if err != nil {
		return fmt.Errorf("read the block list: %w", err)
	}
	blocks := make(map[string]storage.PeerBlock, len(list))
	for _, b := range list {
		blocks[b.Name] = b
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.blocks = blocks
	return nil
}

// Block puts a server, or a registrable domain with all below it, on the block
// list: its requests are refused by name, nothing is sent to it, and what waits
// for it is reported to its senders.
func (s *Service) Block(ctx context.Context, deed storage.AuditEntry, b wire.AdminBlockSet) (wire.AdminBlock, error) {
	if err := s.blockable(b.Name); err != nil {
		return wire.AdminBlock{}, err
	}
	made := storage.PeerBlock{Name: b.Name, Reason: b.Reason, Created: clearbox.Millis(s.o.Now().UnixMilli())}
	if b.TTL > 0 {
		made.Expires = clearbox.Millis(s.o.Now().Add(time.Duration(b.TTL) * time.Second).UnixMilli())
	}
	err := s.table.changeBlocks(ctx, func(tx *storage.Tx) error {
		if err := tx.PutPeerBlock(made); err != nil {
			return err
		}
		deed.Object, deed.Detail = b.Name, "reason "+b.Reason
		return tx.Audit(deed)
	})
	if err != nil {
		return wire.AdminBlock{}, err
	}
	s.Tend(context.WithoutCancel(ctx))
	return wire.AdminBlock(made), nil
}

// blockable refuses what would block this server itself, or everybody below a
// suffix under which others register.
func (s *Service) blockable(name string) error {
	domain, wild := strings.CutPrefix(name, wildcard)
	own := string(s.self.Server())
	if domain == own || wild && strings.HasSuffix(own, "."+domain) {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: "this would block the server itself", Field: "/name"}
	}
	if !wild {
		return nil
	}
	if registrable, err := publicsuffix.EffectiveTLDPlusOne(domain); err != nil || registrable != domain {
		text := "a block with *. is for a domain that somebody registered, not for what lies above it"
		if err == nil {
			text = "a block with *. is for a whole registered domain: *." + registrable
		}
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: text, Field: "/name"}
	}
	return nil
}

// Unblock ends a block of exactly that name.
func (s *Service) Unblock(ctx context.Context, deed storage.AuditEntry, name string) error {
	return s.table.changeBlocks(ctx, func(tx *storage.Tx) error {
		if err := tx.DeletePeerBlock(name); err != nil {
			return err
		}
		deed.Object = name
		return tx.Audit(deed)
	})
}

// changeBlocks shows a change of the list to readers when it is durable.
func (t *Table) changeBlocks(ctx context.Context, fn func(tx *storage.Tx) error) error {
	release, err := t.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	err = t.store.Update(ctx, fn)
	if again := t.readBlocks(context.WithoutCancel(ctx)); err == nil {
		err = again
	}
	return err
}
