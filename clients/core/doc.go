// Package core is the brain of every client: it holds a person's keys and
// sessions, encrypts and decrypts, keeps the queue of what is to be sent and
// the record of what was received, and knows the state of every message. It
// does no I/O of its own: a Vault keeps its memory, a Network carries its
// requests, time and randomness are handed in. The terminal client and the
// browser use the same brain.
package core
