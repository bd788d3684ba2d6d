# ClearBox. `make demo` runs the main job, `make test` runs all tests; `make help` lists the rest.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
NESTED  := crypto/wycheproof federation/oracle
# What runs in a browser as well.
BROWSER := ./clients/core/... ./crypto/curve ./crypto/keys ./crypto/chain ./crypto/ratchet/... ./crypto/sealed/... ./crypto/fanout/... \
	./crypto/group ./crypto/vault ./crypto/internal/...
# Others' code that only computes: SQLite as translated from C, which keeps its memory outside of what the race
# detector watches, and arithmetic. Instrumented it takes more than half of the tests' time and finds nothing. A package
# that keeps caches in maps or slices behind atomics must not be here: the detector would not see what orders them.
COMPUTE := modernc.org/sqlite/lib modernc.org/libc modernc.org/memory filippo.io/edwards25519/... github.com/cloudflare/circl/... \
	golang.org/x/crypto/... $(addprefix crypto/internal/fips140/,edwards25519/... mlkem nistec/... bigmod sha256 sha3 sha512)
# The race detector needs cgo and a C compiler; without one the tests run without it and say so.
RACE    := $(shell command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 && echo -race $(COMPUTE:%=-gcflags=%=-race=false))
S ?= local,offline,idle,fed,fed-h3,fed-backlog,fed-trouble,group,media,cold
T ?= kill9,outage,clock,replay,timing,receipts,weather,faults,halfopen,diskfull,malformed,slow,leaks,model,away,healing,conversations,powercut

.PHONY: help build demo test check fuzz interop bench bench-client reliability wasm-size wasm-test dist install clean generate

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build bin/clearbox and bin/cbx
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./server/cmd/clearbox ./clients/cbx

demo: build ## two organisations on loopback: asking, talking through outages, a suspended peer, a bounce, a search for leaks
	bin/clearbox demo --once

test: ## all tests, with the race detector where a C compiler is, and the brain as WebAssembly where Node is
	@if [ -z "$(RACE)" ]; then echo "make test: no C compiler found, running without the race detector"; fi
	$(GO) test $(RACE) -vet=off -shuffle=on -timeout 15m ./...
	@for m in $(NESTED); do echo "== $$m"; (cd $$m && $(GO) test ./...) || exit 1; done
	@if command -v node >/dev/null 2>&1; then $(MAKE) --no-print-directory wasm-test; \
	elif [ -n "$$CI" ]; then echo "make test: no Node found, which the tests of the brain as WebAssembly need"; exit 1; \
	else echo "make test: no Node found, the brain was not tested as WebAssembly"; fi

check: ## vet (also for the browser), staticcheck, floors, tidy, formatting, generated files, every fuzz target with 2000 inputs
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	GOOS=js GOARCH=wasm $(GO) vet ./clients/web/wasm $(BROWSER)
	@mkdir -p bin
	$(GO) build -modfile=.ci/tools/go.mod -o bin/staticcheck honnef.co/go/tools/cmd/staticcheck
	bin/staticcheck ./...
	$(GO) mod tidy -diff
	@for m in $(NESTED); do (cd $$m && $(GO) vet ./... && $(GO) mod tidy -diff) || exit 1; done
	$(GO) test -vet=off -count=1 -run 'TestFloors|Golden|Example|Generated|WireForm' . ./server/config ./server/wire ./federation ./crypto/keys ./crypto/chain
	.ci/fuzz $(or $(FUZZTIME),2000x)

fuzz: ## every fuzz target, FUZZTIME (10s) each
	.ci/fuzz $(or $(FUZZTIME),10s)

interop: ## both directions against the pinned libsignal package
	crypto/interop/run

bench: build ## load the real server over real sockets; S=local,fed picks scenarios
	$(GO) run ./server/bench -clearbox bin/clearbox -scenarios $(S)

reliability: build ## the long tests; T=kill9,powercut picks some
	$(GO) run ./server/bench/reliability -clearbox bin/clearbox -cbx bin/cbx -tests $(T)

bench-client: ## pairs of encrypting and decrypting a second and core, native and as WebAssembly in Node; size of the module
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/pairs ./clients/pairs
	GO=$(GO) clients/web/wasm/build.sh bin/pairs.wasm ./clients/pairs
	@bin/pairs
	@"$$($(GO) env GOROOT)/lib/wasm/go_js_wasm_exec" bin/pairs.wasm
	@clients/web/wasm/size.sh

wasm-size: ## size of the client brain as WebAssembly
	@clients/web/wasm/size.sh

wasm-test: ## the tests of the brain and its cryptography, as WebAssembly in Node
	GOOS=js GOARCH=wasm $(GO) test -vet=off -exec "$$($(GO) env GOROOT)/lib/wasm/go_js_wasm_exec" $(BROWSER)

dist: ## the static binaries that the Dockerfile packs, in dist/
	@mkdir -p dist
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o dist/ ./server/cmd/clearbox ./clients/cbx

generate: ## rewrite config.example.yaml and golden files from the code
	$(GO) test ./server/config -run Example -update

install: build ## install both programs into PREFIX/bin (default /usr/local)
	install -D -m 0755 bin/clearbox $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/clearbox
	install -D -m 0755 bin/cbx $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/cbx

clean: ## remove what was built
	rm -rf bin dist
