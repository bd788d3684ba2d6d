package auth

import (
	"strings"
	"unicode/utf8"

	"github.com/clearbox-im/clearbox"
)

// Limits of passwords. NIST SP 800-63B-4, 3.1.1.2: length counts, composition
// rules do not.
const (
	MinPassword = 10   // characters after normalisation
	MaxPassword = 1024 // bytes as sent
)

// checkPassword says why a new password is not accepted: too short, too long,
// too common, or made of the names around it. field is the place in the request.
func checkPassword(password, field string, names ...string) error {
	refuse := func(text string) error {
		return &clearbox.Error{Code: clearbox.CodeBadRequest, Text: text, Field: field}
	}
	if len(password) > MaxPassword {
		return refuse("a password has at most 1024 bytes")
	}
	if !utf8.ValidString(password) {
		return refuse("a password is UTF-8 text")
	}
	plain := normal(password)
	if utf8.RuneCountInString(plain) < MinPassword {
		return refuse("a password has at least 10 characters")
	}
	folded := strings.ToLower(plain)
	if commonPassword(folded) {
		return refuse("this password is among the first that are tried; choose another")
	}
	// What is left without the person's and the server's name must be worth
	// guessing by itself.
	rest := folded
	for _, n := range names {
		if len(n) >= 3 {
			rest = strings.ReplaceAll(rest, n, "")
		}
	}
	if rest != folded && utf8.RuneCountInString(rest) < 6 {
		return refuse("this password is made of your name or the server's; choose another")
	}
	return nil
}

// contextWords are the names that a password must not be made of.
func contextWords(handle clearbox.Handle, server clearbox.ServerName) []string {
	words := []string{string(server), string(handle), "clearbox"}
	words = append(words, strings.FieldsFunc(string(handle), func(r rune) bool { return r == '.' || r == '_' || r == '-' })...)
	return append(words, strings.Split(string(server), ".")...)
}

// commonPassword knows runs such as aaaaaaaaaa, 1234567890 and abcdefghij, a
// short part said again and again, and those of the most used passwords that are
// long enough to get here, each with digits and marks behind it.
func commonPassword(folded string) bool {
	if run(folded, 0) || run(folded, 1) || run(folded, -1) || repeats(folded) {
		return true
	}
	word := strings.TrimRight(folded, "0123456789!?.*#$@-_ ")
	return common[folded] || common[word] || word == ""
}

func run(s string, step rune) bool {
	last := rune(-1)
	for _, r := range s {
		next := r == last+step || step == 1 && last == '9' && r == '0' || step == -1 && last == '0' && r == '9'
		if last >= 0 && !next {
			return false
		}
		last = r
	}
	return true
}

// repeats finds a part of up to five bytes that makes up all of s.
func repeats(s string) bool {
	for n := 1; n <= 5 && n < len(s); n++ {
		if strings.HasPrefix(strings.Repeat(s[:n], len(s)/n+1), s) {
			return true
		}
	}
	return false
}

// common never changes.
var common = map[string]bool{
	"password": true, "passwort": true, "passw0rd": true, "p@ssw0rd": true, "p@ssword": true, "pa$$word": true,
	"passwordpassword": true, "mypassword": true, "newpassword": true, "yourpassword": true, "mypasswort": true,
	"changeme": true, "changemenow": true, "pleasechangeme": true, "letmein": true, "letmeinplease": true,
	"iloveyou": true, "ichliebedich": true, "welcome": true, "willkommen": true, "hallohallo": true,
	"qwertyuiop": true, "qwertzuiop": true, "azertyuiop": true, "asdfghjkl": true, "qwertyuiopasdf": true,
	"qwerty": true, "qwertz": true, "asdfasdf": true, "zxcvbnm": true, "yxcvbnm": true,
	"1q2w3e4r5t": true, "1q2w3e4r5t6y": true, "q1w2e3r4t5": true, "1qaz2wsx3edc": true, "1qaz2wsx": true, "qazwsxedc": true,
	"administrator": true, "admin": true, "superuser": true, "rootroot": true, "testtest": true, "testpassword": true,
	"trustno1": true, "football": true, "baseball": true, "superman": true, "starwars": true, "sunshine": true,
	"princess": true, "dragon": true, "monkey": true, "master": true, "shadow": true, "michael": true,
	"correcthorsebatterystaple": true, "correct horse battery staple": true, "secretsecret": true, "geheimgeheim": true,
	"summer": true, "winter": true, "sommer": true, "spring": true, "autumn": true, "herbst": true,
}
