package storage

import (
	"math"
	"slices"

	"github.com/clearbox-im/clearbox"
)

// AuditEntry is a deed of an admin or moderator: gdpr.md 9. People stand in it
// by their number only; what links a number to a person is sealed under the
// person's key and dies with it. Object and Detail hold no personal data: a
// peer's name, an invite's id, a role.
type AuditEntry struct {
	No       int64           // given by Audit; without holes in order of commit
	At       clearbox.Millis // given by Audit
	ActorNo  int64           // account number, 0 for the local admin socket
	Role     Role
	Action   string // "user.ban", "peer.suspend", ...
	ObjectNo int64  // account number, 0 if the object is no person
	Object   string
	Purpose  string // why, in the admin's words or a case number
	Detail   string
}

// Audit writes a deed into the log, in the transaction that does it: no deed
// without a record.
func (tx *Tx) Audit(e AuditEntry) error {
	_, err := tx.exec(`INSERT INTO audit_logs (at, actor_no, role, action, object_no, object, purpose, detail)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		int64(tx.now), e.ActorNo, string(e.Role), e.Action, e.ObjectNo, e.Object, e.Purpose, e.Detail)
	return err
}

// AuditEntries gives at most limit entries with numbers above after, in order.
func (tx *Tx) AuditEntries(after int64, limit int) ([]AuditEntry, error) {
	return tx.auditEntries("WHERE no > $1 ORDER BY no LIMIT $2", after, int64(limit))
}

// LastAuditEntries gives the last limit entries with numbers below before, 0 for
// all, in order.
func (tx *Tx) LastAuditEntries(before int64, limit int) ([]AuditEntry, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	es, err := tx.auditEntries("WHERE no < $1 ORDER BY no DESC LIMIT $2", before, int64(limit))
	slices.Reverse(es)
	return es, err
}

func (tx *Tx) auditEntries(which string, a ...any) ([]AuditEntry, error) {
	var es []AuditEntry
	var e AuditEntry
	var at int64
	var role string
	err := tx.each(`SELECT no, at, actor_no, role, action, object_no, object, purpose, detail FROM audit_logs `+which,
		a, []any{&e.No, &at, &e.ActorNo, &role, &e.Action, &e.ObjectNo, &e.Object, &e.Purpose, &e.Detail}, func() error {
			e.At, e.Role = clearbox.Millis(at), Role(role)
			es = append(es, e)
			return nil
		})
	return es, err
}
