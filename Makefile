# Every routine task is one command. Each target makes .venv and installs what the task needs, and nothing more.

PYTHON ?= python3
VENV := .venv
comma := ,
BIN := $(VENV)/bin
# The extras cpu and cuda own the same import name, so that one environment holds one of them.
ENGINE := $(shell [ -e /proc/driver/nvidia/version ] && echo cuda || echo cpu)
PACKAGES := clients/python/mattebox server/mattebox_server export/mattebox_export
CHECKED := $(PACKAGES) tests examples benchmarks docs tools

DEMO := $(VENV)/installed-$(ENGINE)+demo
EXPORT := $(VENV)/installed-$(ENGINE)+export
BENCH := $(VENV)/installed-$(ENGINE)+export+quantize+bench
DOCS := $(VENV)/installed-$(ENGINE)+docs
CALIBRATE := $(VENV)/installed-$(ENGINE)+export+quantize
ALL := $(VENV)/installed-$(ENGINE)+export+quantize+bench+docs+dev
PROTO := .venv-proto/installed
RELEASE := $(VENV)/installed-$(ENGINE)+cli+release
# Not --quiet, which would hide the warnings from --strict too.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
TYPESCRIPT := clients/typescript
NODE_MODULES := $(TYPESCRIPT)/node_modules/.package-lock.json

.PHONY: help demo test lint hooks format proto bench bench-quick bench-compare bench-selftest bench-engine bench-quality bench-pixels bench-faults bench-folder bench-networks gpu-check calibrate skeletons docs docs-pictures package release clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO) ## cut the subject out of real photos into demo/ [MODEL=name] [PHOTO=path]
	$(BIN)/python examples/demo.py --model "$(or $(MODEL),u2netp)" $(if $(PHOTO),--photo "$(PHOTO)")

test: $(ALL) ## run all tests [ARGS="-k name"]
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(ALL) $(PROTO) $(NODE_MODULES) ## check style, types, the contract, the generated code, the documentation, deploy/ and .github/
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/pyright
	./protos/generate.sh --check
	$(SITE)
	npm --prefix $(TYPESCRIPT) run --silent lint
	./deploy/check.sh
	./.github/check.sh

hooks: $(ALL) ## install hooks that check the files of each commit in this clone
	$(BIN)/pre-commit install

format: $(ALL) ## format the code and apply the fixes that ruff knows
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

proto: $(PROTO) $(NODE_MODULES) ## generate the code of the contract in protos/
	./protos/generate.sh

bench: $(BENCH) ## measure latency and capacity under load, beside other servers, for hours [ARGS="--subjects Mattebox"]
	$(BIN)/python benchmarks/latency.py run $(ARGS)

bench-quick: $(BENCH) ## measure latency and capacity of Mattebox alone, in under 3 minutes [ARGS="--photos mixed"]
	$(BIN)/python benchmarks/latency.py run --quick $(ARGS)

bench-compare: $(BENCH) ## say what got slower between two runs: A=folder B=folder
	@test -n "$(A)" -a -n "$(B)" || { echo "say which runs: make bench-compare A=folder B=folder"; exit 2; }
	$(BIN)/python benchmarks/latency.py compare "$(A)" "$(B)"

bench-selftest: $(BENCH) ## measure the load generator itself: what it adds and what it hides
	$(BIN)/python benchmarks/latency.py selftest $(ARGS)

bench-engine: $(BENCH) ## time the networks on every runtime of this machine, and judge reduced precisions [DATA=folder]
	$(BIN)/python benchmarks/providers.py $(if $(DATA),--data "$(DATA)") $(ARGS)

bench-quality: $(DEMO) ## score the mattes of photos whose true mattes are known: DATA=folder [ARGS="--limit 4"]
	@test -n "$(DATA)" || { echo "say which photos: make bench-quality DATA=folder"; exit 2; }
	$(BIN)/python benchmarks/quality.py --data "$(DATA)" $(ARGS)

bench-pixels: $(DEMO) ## time the stages that touch pixels, against the classic recipe [ARGS="--rounds 9"]
	$(BIN)/python benchmarks/pixels.py $(ARGS)

bench-faults: $(BENCH) ## overload the server, mistreat it, kill it, fuzz it and soak it [ARGS="--only overload"]
	$(BIN)/python benchmarks/faults.py $(ARGS)

bench-folder: $(BENCH) ## time `mattebox remove` on a folder, against the server's own throughput [ARGS="--rounds 5"]
	$(BIN)/python benchmarks/folder.py $(ARGS)

bench-networks: $(BENCH) ## measure time, memory and deadlines of networks, each behind its own server [ARGS="--models u2netp mine.onnx"]
	$(BIN)/python benchmarks/network_costs.py $(ARGS)

gpu-check: $(BENCH) ## measure parity, latency and throughput of cuda and tensorrt on an NVIDIA GPU [ARGS="--rounds 20"]
	$(BIN)/python benchmarks/gpu_check.py $(ARGS)

calibrate: $(CALIBRATE) ## find how a network becomes int8, for the package: MODEL=name DATA=folder of photos [ARGS="--weights FILE"]
	@test -n "$(MODEL)" -a -n "$(DATA)" || { echo "say what: make calibrate MODEL=name DATA=folder"; exit 2; }
	$(BIN)/mattebox-export "$(MODEL)" --calibration "$(DATA)" --save-table "export/mattebox_export/tables/$(MODEL).json" -o "build/$(MODEL).onnx" $(ARGS)

skeletons: $(EXPORT) ## make the graphs of torchvision's networks without weights again, for the package
	$(BIN)/python tools/skeletons.py

docs: $(DOCS) $(PROTO) ## build the documentation into build/docs/
	$(SITE)

docs-pictures: $(DEMO) ## make the pictures of the documentation again [MODELS="mine.onnx other.onnx"]
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/network_pictures.py $(MODELS)

package: $(RELEASE) $(NODE_MODULES) ## build the packages and the bills of materials into dist/ [TAG=v1.2.3]
	$(BIN)/python tools/package.py $(if $(TAG),--tag "$(TAG)")

release: $(RELEASE) $(PROTO) $(NODE_MODULES) ## make a release in this checkout, publishing nothing: VERSION=1.2.3
	@test -n "$(VERSION)" || { echo "say which version: make release VERSION=1.2.3"; exit 2; }
	$(BIN)/python tools/release.py "$(VERSION)"

clean: ## remove everything that the targets made
	rm -rf $(addprefix $(TYPESCRIPT)/,node_modules build dist) .venv .venv-proto .mypy_cache .pytest_cache .ruff_cache build dist demo

# installed-a+b+c: the extras a, b and c, at the versions of constraints.txt.
$(VENV)/installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing mattebox[$*]"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(subst +,$(comma),$*)]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Mattebox needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=...") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

$(NODE_MODULES): $(TYPESCRIPT)/package.json $(TYPESCRIPT)/package-lock.json
	@command -v npm >/dev/null || { echo "the TypeScript client needs Node 20 or newer and its npm"; exit 1; }
	@npm ci --prefix $(TYPESCRIPT) --no-audit --no-fund --loglevel=error
	@touch $@

# The generated code refuses to import on older versions than these tools', which are the floors in pyproject.toml.
$(PROTO): protos/requirements.txt
	@$(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/python -m pip install --quiet --disable-pip-version-check -r protos/requirements.txt
	@touch $@
