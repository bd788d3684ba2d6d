module github.com/clearbox-im/clearbox/crypto/wycheproof

go 1.26.4

require (
	filippo.io/edwards25519 v1.2.0
	github.com/c2sp/wycheproof v0.0.0-20260902155932-3fa63dd0344a
	github.com/clearbox-im/clearbox v0.0.0
)

replace github.com/clearbox-im/clearbox => ../..
