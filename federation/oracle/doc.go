// Package oracle compares the signatures of package federation with an
// independent implementation of RFC 9421. It is a module of its own, so that
// the oracle's dependencies stay out of the homeserver.
package oracle
