#!/usr/bin/env bash
# Prints the size of the brain as WebAssembly: raw, and compressed as a server
# would send it. The budget for the whole module is 1.5 MB of brotli.
set -euo pipefail
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
GOOS=js GOARCH=wasm "${GO:-go}" build -ldflags='-s -w' -trimpath -o "$out/brain.wasm" .
node -e '
const fs = require("fs"), zlib = require("zlib");
const raw = fs.readFileSync(process.argv[1]);
const brotli = zlib.brotliCompressSync(raw, { params: {
  [zlib.constants.BROTLI_PARAM_QUALITY]: 11,
  [zlib.constants.BROTLI_PARAM_SIZE_HINT]: raw.length,
} });
const budget = 1500000;
console.log(JSON.stringify({ wasm: "brain", raw: raw.length, brotli: brotli.length, budget }));
process.exit(brotli.length <= budget ? 0 : 1);
' "$out/brain.wasm"
