package identity

import "filippo.io/age"

// Weaken makes a passphrase cheap to try, for tests.
func (l *Lock) Weaken() *Lock {
	l.recipients[0].(*age.ScryptRecipient).SetWorkFactor(4)
	return l
}
