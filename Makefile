# kata-ts. `make demo` runs a container in a virtual machine, `make test` runs everything; `make help` lists the rest.
PREFIX ?= /usr/local
DESTDIR ?=
TSX := npx --no-install tsx

.PHONY: help setup setup-test build guest demo lint unit contract integration modes test bench install uninstall clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{ printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup build guest ## run one container in a virtual machine and show what happened
	@$(TSX) hack/demo.ts

test: setup-test build guest ## set up, then lint, types, cycles, unit, contract, integration and mode suites
	@$(TSX) hack/test.ts lint unit contract integration template cache

setup:
	@hack/setup.sh run

setup-test:
	@hack/setup.sh test

build: setup ## build shim, kata-runtime and agent into build/
	@$(TSX) hack/build.ts

guest: build ## build the embedded guest (kernel and initrd) into build/guest/, cached
	@$(TSX) guest/image/build.ts

lint: setup ## eslint, types, layers and cycles, generated code
	@$(TSX) hack/test.ts lint

unit: setup-test build ## unit tests: no root, no VM
	@$(TSX) hack/test.ts unit

contract: setup-test build guest ## one suite per interface with several implementations
	@$(TSX) hack/test.ts contract

integration: setup-test build guest ## real containerd, real QEMU, real guest
	@$(TSX) hack/test.ts integration

modes: setup-test build guest ## the integration suites again, VMs from a template, then from the cache
	@$(TSX) hack/test.ts template cache

bench: setup-test build guest ## measure, print the table, write build/bench.json
	@$(TSX) test/bench/main.ts

install: build guest ## install shim, kata-runtime, guest and default configuration (DESTDIR=, PREFIX=/usr/local)
	@hack/install.sh install "$(DESTDIR)" "$(PREFIX)"

uninstall: ## remove what install put there
	@hack/install.sh uninstall "$(DESTDIR)" "$(PREFIX)"

clean: ## remove build/ and caches
	rm -rf build .cache ttrpc-ts/dist
