#!/usr/bin/env bash
# Builds a command of ours for the browser: build.sh OUT PACKAGE. Where time does not
# matter, calls are not inlined, which makes the module a tenth smaller on the wire;
# the cryptography and what it stands on are inlined as ever, since it would be a
# third of its speed without. Its data segments are joined, a fifteenth less on the
# wire (pack).
set -euo pipefail
flags=(-gcflags=all=-l)
for fast in math/bits internal/byteorder encoding/binary 'crypto/...' 'filippo.io/...' 'github.com/cloudflare/circl/...' \
    'github.com/clearbox-im/clearbox/crypto/...'; do
    flags+=("-gcflags=$fast=")
done
GOOS=js GOARCH=wasm "${GO:-go}" build -buildvcs=false -trimpath -ldflags='-s -w' "${flags[@]}" -o "$1" "$2"
"${GO:-go}" run github.com/clearbox-im/clearbox/clients/web/wasm/pack "$1"
