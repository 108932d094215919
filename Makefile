# Joule: `make demo` runs the main job, `make test` passes the tests.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO ?= go
GOFLAGS_BUILD := -trimpath
# NVIDIA's symbols are resolved when its library is loaded, never at the start.
PROBE_LDFLAGS := -extldflags=-Wl,-z,lazy
# NVIDIA's header says of many functions that they are deprecated.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations
TOOLS := build/bin
# runc from PATH where there is one, else the one that `make tools` builds.
RUNC := $(shell command -v runc 2>/dev/null || echo $(CURDIR)/$(TOOLS)/runc)
RUNC_TAGS := $(shell pkg-config --exists libseccomp 2>/dev/null && echo -tags seccomp)
DEMO_PROGRAMS := -nomad $(CURDIR)/$(TOOLS)/nomad -runc $(RUNC)

# Packages whose tests start whole clusters of real processes.
E2E := ./cli/e2e/...
# Counts packages while a long build runs; errors are printed as they are.
PROGRESS := awk '/^[A-Za-z0-9._\/~@+-]+$$/ { if (++n % 200 == 0) print "  " n " packages compiled"; next } { print }'

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build our binaries into bin/
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o bin/ ./cli/joule ./driver/joule-shim
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o bin/plugins/ ./driver/nomad-driver-joule
	@if command -v "$$($(GO) env CC)" >/dev/null; then \
		CGO_ENABLED=1 $(GO) build $(GOFLAGS_BUILD) -ldflags '$(PROBE_LDFLAGS)' -o bin/ ./driver/joule-gpu-probe; \
	else echo "no C compiler: joule-gpu-probe is not built, and GPUs are not metered"; fi

.PHONY: tools
tools: $(TOOLS)/nomad $(TOOLS)/nfpm $(if $(filter $(CURDIR)/%,$(RUNC)),$(TOOLS)/runc) ## build Nomad and nfpm (and runc where there is none) from the module proxy

$(TOOLS)/nomad: tools/go.mod tools/go.sum
	@echo "building Nomad v1.11.2: once, 5 to 10 minutes"
	cd tools && $(GO) build -v $(GOFLAGS_BUILD) -o ../$@ github.com/hashicorp/nomad 2>&1 | $(PROGRESS)
	@touch $@

$(TOOLS)/runc: tools/runc/go.mod tools/runc/go.sum
	@echo "building runc $(if $(RUNC_TAGS),with,without) seccomp$(if $(RUNC_TAGS),, (it takes libseccomp-dev and pkg-config))"
	cd tools/runc && $(GO) build -v $(GOFLAGS_BUILD) $(RUNC_TAGS) -o ../../$@ github.com/opencontainers/runc 2>&1 | $(PROGRESS)
	@touch $@

.PHONY: runsc
runsc: $(TOOLS)/runsc ## build gVisor's runsc from the module proxy, for the tests of sandboxed tasks (3 minutes)

$(TOOLS)/runsc: tools/runsc/go.mod tools/runsc/go.sum
	@echo "building runsc"
	cd tools/runsc && CGO_ENABLED=0 $(GO) build -v $(GOFLAGS_BUILD) -ldflags '-s -w' -o ../../$@ gvisor.dev/gvisor/runsc 2>&1 | $(PROGRESS)
	@touch $@

$(TOOLS)/nfpm: tools/nfpm/go.mod tools/nfpm/go.sum tools/nfpm/main.go
	@echo "building nfpm"
	cd tools/nfpm && $(GO) build -v $(GOFLAGS_BUILD) -o ../../$@ . 2>&1 | $(PROGRESS)
	@touch $@

VERSION ?= 0.1.0
.PHONY: deb
deb: build $(TOOLS)/nfpm ## make the Debian package of a supplier's host (VERSION=0.1.0)
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) VERSION=$(VERSION) ARCH=$$($(GO) env GOARCH) \
		$(TOOLS)/nfpm -config tools/nfpm/nfpm.yaml -target build/joule_$(VERSION)_$$($(GO) env GOARCH).deb

.PHONY: demo
demo: build tools ## run the main job end to end (ARGS="-crowd 0.137s -datacenter 1.003s -repeat 20 -load")
	bin/joule demo $(DEMO_PROGRAMS) $(ARGS)

.PHONY: dev
dev: build tools ## keep a whole cluster running until Ctrl-C
	bin/joule dev $(DEMO_PROGRAMS) $(ARGS)

.PHONY: test
test: build tools ## run every test: unit, property, golden, end to end
	$(GO) test -timeout 10m $$($(GO) list ./... | grep -v /cli/e2e)
	$(GO) test -timeout 20m -count=1 $(E2E)

.PHONY: test-short
test-short: ## run the quick tests only
	$(GO) test -short -timeout 5m $$($(GO) list ./... | grep -v /cli/e2e)

.PHONY: test-skips
test-skips: build tools ## list the tests that skip here, and what each is missing
	@$(GO) test -v -timeout 20m ./... 2>&1 | awk '/^ *--- SKIP/ { name = $$3; getline; sub(/^ */, ""); print name ": " $$0; n++ } END { print n + 0 " tests skip" }'

.PHONY: race
race: ## run the tests of what has goroutines under the race detector
	$(GO) test -race -short -timeout 15m ./raftstore/... ./settlement/... ./driver/hostd/... ./driver/session/... ./driver/spool/... ./driver/plugin/... ./cli/command/...

.PHONY: sim
sim: ## run simulated clusters on broken networks and disks (SIM_TIME=1m, SIM_SEED=n for one again)
	SIM_TIME=$(or $(SIM_TIME),1m) SIM_SEED=$(SIM_SEED) $(GO) test -v -count=1 -timeout 0 -run TestSimulation ./settlement/sim | grep -v -e '--- PASS: TestSimulation/' -e '=== RUN'

.PHONY: torture
torture: ## break three real servers under load (ROUNDS=200, TORTURE_SEED=n); needs root
	ROUNDS=$(or $(ROUNDS),200) TORTURE_SEED=$(TORTURE_SEED) $(GO) test -v -count=1 -timeout 0 -run TestTorture ./settlement/torture

.PHONY: mutants
mutants: ## plant faults in the code one by one; each must be noticed by a test (ARGS="-run regexp")
	$(GO) run ./cli/mutants $(ARGS)

.PHONY: fuzz
fuzz: ## fuzz every target for a while (FUZZ_TIME=30s)
	@for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' cli driver raftstore settlement | xargs -n1 dirname | sort -u); do \
		for target in $$(grep -rhoP --include='*_test.go' '^func \KFuzz\w+' $$pkg); do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(or $(FUZZ_TIME),30s) ./$$pkg || exit 1; \
		done; \
	done

PG15 := /usr/lib/postgresql/15/bin/postgres

.PHONY: bench
bench: $(if $(wildcard $(PG15)),,bench-postgres) ## measure settlement beside PostgreSQL 15: a table and build/bench.json (ARGS="-quick", "-no-postgres", ...)
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) -o bin/ ./settlement/bench/joule-bench
	bin/joule-bench $(ARGS)

.PHONY: bench-postgres
bench-postgres:
	@if [[ "$(ARGS)" = *-no-postgres* ]]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "PostgreSQL 15 is not installed: installing Debian's package"; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql-15 postgresql-client-15; \
	else \
		echo "PostgreSQL 15 is not installed. As root: apt-get install postgresql-15 postgresql-client-15; or ARGS=-no-postgres" >&2; exit 1; \
	fi

.PHONY: bench-driver
bench-driver: build tools ## measure the driver: a table and build/bench-driver.json (ARGS="-starts 100 -tasks 200 -window 60s")
	$(GO) test ./driver/bench -run TestMeasure -v -count=1 -timeout 20m -args -out $(CURDIR)/build/bench-driver.json $(ARGS)

.PHONY: fmt
fmt: ## format the code
	gofmt -w $$(git ls-files '*.go')

.PHONY: fmt-check
fmt-check:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not formatted (make fmt): $$out"; exit 1; fi

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...

.PHONY: arch
arch: ## check who may import whom, and other rules of structure
	$(GO) test -count=1 ./cli/archtest

$(TOOLS)/buf: tools/buf/go.mod tools/buf/go.sum
	@echo "building buf and its generators"
	cd tools/buf && $(GO) build -v -o ../../$(TOOLS)/ github.com/bufbuild/buf/cmd/buf connectrpc.com/connect/cmd/protoc-gen-connect-go google.golang.org/protobuf/cmd/protoc-gen-go 2>&1 | $(PROGRESS)
	@touch $@

.PHONY: generate
generate: $(TOOLS)/buf ## generate the API's Go code
	cd settlement/api && PATH=$(CURDIR)/$(TOOLS):$$PATH buf lint && PATH=$(CURDIR)/$(TOOLS):$$PATH buf generate

.PHONY: check-generate
check-generate: generate
	@git diff --exit-code -- settlement/api || { echo "generated code is not up to date: make generate"; exit 1; }

.PHONY: ci
ci: fmt-check vet arch check-generate race test sim ## everything that must pass

.PHONY: clean
clean: ## remove what was built, but for the tools
	rm -rf bin build/demo
