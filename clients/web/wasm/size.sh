#!/usr/bin/env bash
# Prints the size of the brain as WebAssembly: raw, and compressed as a server
# would send it. The budget for the whole module is 1.5 MB of brotli.
set -euo pipefail
for tool in "${GO:-go}" node; do
    command -v "$tool" >/dev/null 2>&1 || { echo "wasm-size needs $tool" >&2; exit 1; }
done
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
./build.sh "$out/brain.wasm" .
node -e '
const fs = require("fs"), zlib = require("zlib");
const raw = fs.readFileSync(process.argv[1]);
const brotli = zlib.brotliCompressSync(raw, { params: {
  [zlib.constants.BROTLI_PARAM_QUALITY]: 11,
  [zlib.constants.BROTLI_PARAM_SIZE_HINT]: raw.length,
} });
const kib = (bytes) => Math.round(bytes / 1024);
console.log(JSON.stringify({ scenario: "wasm-size", raw_kib: kib(raw.length), brotli_kib: kib(brotli.length) }));
const budget = 1500000; // bytes
if (brotli.length > budget) {
  console.error(`wasm-size: ${brotli.length} bytes of brotli, the budget is ${budget}`);
  process.exit(1);
}
' "$out/brain.wasm"
