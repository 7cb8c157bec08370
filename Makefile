# NekoQ: what there is to run. `make help` lists it.
SHELL := /bin/bash
GO ?= go
BIN := bin/nekoq
TEST_TIMEOUT ?= 30m
SOAK_TIME ?= 10m
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X nekoq/services/app.Version=$(VERSION)
export CGO_ENABLED ?= 1

.DEFAULT_GOAL := help
.PHONY: help build run test test-short fuzz bench soak lint fix verify-fmt fix-fmt verify-golden fix-golden deps clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## build bin/nekoq
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/nekoq

run: ## run LocalSwitch: one process, everything on, loopback only
	$(GO) run -ldflags '$(LDFLAGS)' ./cmd/nekoq serve

deps: ## install what the tests need from the system's packages (a C compiler for -race, etcdctl, etcd)
	@./.ci/deps

test: deps ## run every test of a fresh machine: static checks, unit, replay, conformance, clusters, the built binary
	@$(MAKE) --no-print-directory lint
	$(GO) test -race -count=1 -timeout $(TEST_TIMEOUT) ./...

test-short: ## unit tests without the race detector
	$(GO) test -short -timeout 5m ./...

fuzz: ## run every fuzz target for FUZZTIME (default 20s)
	@./.ci/fuzz $(or $(FUZZTIME),20s)

bench: ## speed and memory beside etcd and a bare gin handler, as ratios
	@./.ci/deps
	$(GO) run -ldflags '$(LDFLAGS)' ./services/testkit/bench $(BENCH)

soak: ## kill -9 loops, frozen leaders and partitions for SOAK_TIME (default 10m)
	NEKOQ_SOAK=$(SOAK_TIME) $(GO) test -race -timeout 2h -run 'Soak' -v ./services/testkit/binary ./warehouse

lint: verify-fmt ## static checks: gofumpt, vet, staticcheck, architecture
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fix: fix-fmt fix-golden ## mend what the static checks can mend

verify-fmt:
	@bad=$$($(GO) tool gofumpt -l $$(git ls-files '*.go' | grep -v '[.]pb[.]')); if [ -n "$$bad" ]; then echo "not formatted (run make fix-fmt):"; echo "$$bad"; exit 1; fi

fix-fmt: ## format with gofumpt
	$(GO) tool gofumpt -w $$(git ls-files '*.go' | grep -v '[.]pb[.]')

fix-golden: ## rewrite golden files (help texts, OpenAPI, configuration reference)
	$(GO) test ./services/errs ./configs/... ./cmd/nekoq/... ./services/app/... -update

clean: ## remove what was built
	rm -rf bin
