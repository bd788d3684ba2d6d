package vault

import (
	"fmt"
	"io"
	"strings"
)

// RecoveryKey is the secret with which a person without any device gets back what
// was backed up: 160 bits, shown once, written down, and never stored by the
// program or given to a server.
type RecoveryKey [20]byte

// NewRecoveryKey makes a key from 20 bytes of random.
func NewRecoveryKey(random io.Reader) (k RecoveryKey, err error) {
	return k, fill(random, k[:])
}

// Purpose separates what is derived from one recovery key.
type Purpose string

// The purposes. None of the derived secrets tells anything about another one or
// about the recovery key.
const (
	PurposeArchive Purpose = "archive" // secret of the containers on the homeserver
	PurposeAccount Purpose = "account" // secret of the container with the account's keys
	PurposeAccess  Purpose = "access"  // shown to the homeserver to be given both
	PurposeExport  Purpose = "export"  // secret of files
)

// Derive returns 32 bytes for a purpose.
func (k RecoveryKey) Derive(p Purpose) (secret [32]byte) {
	out := derive(k[:], nil, "clearbox recovery key v1\x00"+string(p), len(secret))
	defer clear(out)
	return [32]byte(out)
}

// Format keeps the key out of anything printed with package fmt; Text shows it.
func (RecoveryKey) Format(f fmt.State, _ rune) { io.WriteString(f, "vault.RecoveryKey(secret)") }

// The text form: eight groups of five characters with hyphens between them. Four
// characters of a group are 20 bits of the key, the fifth checks them.
const (
	recoveryGroups = 8
	groupSize      = 5
)

// recoveryAlphabet is Crockford's base 32: no I, L, O, U.
const recoveryAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// Text is the form that people write down, 47 characters.
func (k RecoveryKey) Text() string {
	var b strings.Builder
	for g := range recoveryGroups {
		if g > 0 {
			b.WriteByte('-')
		}
		digits := k.group(g)
		for _, d := range digits {
			b.WriteByte(recoveryAlphabet[d])
		}
		b.WriteByte(recoveryAlphabet[check(g, digits)])
	}
	return b.String()
}

// group returns 20 bits of the key as four base-32 digits.
func (k RecoveryKey) group(g int) (digits [groupSize - 1]byte) {
	for i := range digits {
		bit := g*20 + i*5
		v := uint16(k[bit/8]) << 8
		if bit/8+1 < len(k) {
			v |= uint16(k[bit/8+1])
		}
		digits[i] = byte(v>>(11-bit%8)) & 31
	}
	return digits
}

// check is the fifth digit of a group: the sum, in GF(32), of the digits times x
// to the power of their place (1 to 4), and of the group's number times x^5. The
// weights differ from each other and from the 1 of the check digit itself, so one
// wrong digit, two exchanged ones and a group in another's place are always
// found, and other errors in 31 of 32 cases for each group.
func check(group int, digits [groupSize - 1]byte) byte {
	sum := byte(0)
	for i, d := range digits {
		for range i + 1 {
			d = times2(d)
		}
		sum ^= d
	}
	g := byte(group)
	for range groupSize {
		g = times2(g)
	}
	return sum ^ g
}

// times2 multiplies by x in GF(32) modulo x^5+x^2+1.
func times2(a byte) byte {
	a <<= 1
	if a&32 != 0 {
		a ^= 0b100101
	}
	return a
}

// TypingError reports where a recovery key was mistyped. It tells nothing of what
// was typed.
type TypingError struct {
	Group   int // 1 to 8; 0 when the number of groups or characters is wrong
	Problem TypingProblem
}

// TypingProblem says what is wrong.
type TypingProblem uint8

// The problems.
const (
	TypingLength    TypingProblem = iota + 1 // too many or too few characters or groups
	TypingCharacter                          // a character that does not occur in a key
	TypingCheck                              // the group does not check
)

func (e *TypingError) Error() string {
	what := map[TypingProblem]string{
		TypingLength:    "has the wrong length",
		TypingCharacter: "has a character that no key has",
		TypingCheck:     "is mistyped",
	}[e.Problem]
	if e.Group == 0 {
		return fmt.Sprintf("vault: the recovery key %s (%d groups of %d characters)", what, recoveryGroups, groupSize)
	}
	return fmt.Sprintf("vault: group %d of the recovery key %s", e.Group, what)
}

// ParseRecoveryKey reads the text form, with or without hyphens and blanks, in
// upper or lower case; O counts as 0, I and L as 1. The only error is a
// *TypingError, which names the first group that is wrong.
func ParseRecoveryKey(text string) (RecoveryKey, error) {
	var k RecoveryKey
	groups, err := splitGroups(text)
	if err != nil {
		return k, err
	}
	var acc uint32
	for g, group := range groups {
		var digits [groupSize]byte
		for i, c := range []byte(group) {
			d, ok := recoveryDigit(c)
			if !ok {
				return RecoveryKey{}, &TypingError{g + 1, TypingCharacter}
			}
			digits[i] = d
		}
		if data := [groupSize - 1]byte(digits[:]); check(g, data) != digits[groupSize-1] {
			return RecoveryKey{}, &TypingError{g + 1, TypingCheck}
		}
		acc = acc<<20 | uint32(digits[0])<<15 | uint32(digits[1])<<10 | uint32(digits[2])<<5 | uint32(digits[3])
		// Two groups are five bytes; an odd group leaves four bits behind.
		if g%2 == 0 {
			k[g/2*5], k[g/2*5+1] = byte(acc>>12), byte(acc>>4)
		} else {
			k[g/2*5+2], k[g/2*5+3], k[g/2*5+4] = byte(acc>>16), byte(acc>>8), byte(acc)
		}
	}
	return k, nil
}

// splitGroups cuts the text into groups; where it was typed in groups, it names the
// one that has the wrong length.
func splitGroups(text string) ([]string, error) {
	if len(text) > 256 {
		return nil, &TypingError{0, TypingLength}
	}
	groups := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune("-\u2010\u2011\u2012\u2013 \t\r\n", r) })
	if len(groups) == recoveryGroups {
		for g, group := range groups {
			if len(group) != groupSize {
				return nil, &TypingError{g + 1, TypingLength}
			}
		}
		return groups, nil
	}
	all := strings.Join(groups, "")
	if len(all) != recoveryGroups*groupSize {
		return nil, &TypingError{0, TypingLength}
	}
	groups = groups[:0]
	for ; all != ""; all = all[groupSize:] {
		groups = append(groups, all[:groupSize])
	}
	return groups, nil
}

func recoveryDigit(c byte) (byte, bool) {
	if c >= 'a' && c <= 'z' {
		c -= 'a' - 'A'
	}
	switch c {
	case 'O':
		c = '0'
	case 'I', 'L':
		c = '1'
	}
	i := strings.IndexByte(recoveryAlphabet, c)
	return byte(i), i >= 0
}
