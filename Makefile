# Two commands matter: `make run` starts a cluster on this machine, `make test` runs every test.
# Both install what they need where a package manager is at hand (see build/ensure).

GOLANGCI_LINT_VERSION := v2.15.0
BIN := $(CURDIR)/bin
FUZZTIME ?= 20s
# Where goroutines share state: tested a second time under the race detector.
CONCURRENT := ./replication/... ./storage/... ./federation/... $(addprefix ./homeserver/,accountdata cache delayed lease presence push \
	receipts streams sync task typing userdir writer)

.PHONY: all run test lint fmt bench fuzz build clean

all: build

build:
	go build -o $(BIN)/ ./examples/...

# WEFT_DIR is the data directory, WEFT_PORT the router's port, WEFT_SERVER_NAME the server name.
run:
	@build/ensure postgresql redis
	@go build -o $(BIN)/ ./examples/...
	@exec $(BIN)/cluster

# mautrix's own authorisation and events need jsonv2: those tests compare ours with it.
test:
	@build/ensure postgresql redis node
	go vet ./...
	go test -timeout 20m ./...
	GOEXPERIMENT=jsonv2 go test -run Mautrix ./homeserver/event
	go test -race -timeout 20m $(CONCURRENT)

lint: $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION)
	$< run ./...

fmt: $(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION)
	$< fmt ./...

$(BIN)/golangci-lint-$(GOLANGCI_LINT_VERSION):
	@mkdir -p $(BIN)
	GOBIN=$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	@mv $(BIN)/golangci-lint $@

# Benchmarks compare with pgbench and with themselves in one run: read the ratios, not the times. First of each part,
# then of whole clusters (see `bin/weftctl bench -h`).
bench:
	@build/ensure postgresql redis
	go test -run '^$$' -bench . -benchmem ./...
	@go build -o $(BIN)/ ./examples/...
	$(BIN)/weftctl bench

# Every fuzz target, one after another.
fuzz:
	@for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
	  done; done

clean:
	rm -rf $(BIN)
