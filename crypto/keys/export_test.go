package keys

import "crypto/ed25519"

// SignUnchecked signs what Sign refuses, as a program with other rules might.
func SignUnchecked(l *DeviceList, root ed25519.PrivateKey) []byte {
	b := l.encode()
	return append(b, ed25519.Sign(root, labelled(b))...)
}

// WordList is the list behind FingerprintWords.
func WordList() []string { return wordList()[:] }
