# MaskSAM: one Go binary over libtorch.
#   make demo      build, train on a real brain MR, predict, score; about eleven minutes on two cores
#   make test      formatting, vet and every test
#   make build     bin/masksam
#   make test-device LIBTORCH=...   what computes, on a device that stands for a GPU (libtorch 2.x)
#   make lint      test's checks plus staticcheck
#   make bench     the Go benchmarks
#   make install   bin/masksam and nnU-Net's command names to $(PREFIX)/bin, but for names that are another program's
# LIBTORCH=/path builds against another libtorch than Debian's: an unpacked 2.x, or the folder of an installed Python
# package torch (the one that holds include/ and lib/).

SHELL  := /bin/bash
PREFIX ?= /usr/local
GO     ?= go

NNUNET := $(addprefix nnUNetv2_,plan_and_preprocess extract_fingerprint plan_experiment preprocess \
	move_plans_between_datasets plot_overlay_pngs convert_MSD_dataset convert_old_nnUNet_dataset \
	train predict predict_from_modelfolder evaluate_folder evaluate_simple ensemble find_best_configuration accumulate_crossval_results \
	determine_postprocessing apply_postprocessing export_model_to_zip install_pretrained_model_from_zip)

ifdef LIBTORCH
override LIBTORCH := $(abspath $(LIBTORCH))
TAGS := -tags libtorch
include build/libtorch.mk
endif

# The tests run a package per core, so each computes with one thread: more would only wait for each other.
# Tests of reference values that are not at hand note themselves in a file, whose new name keeps go from answering for
# them out of its cache.

.PHONY: all build demo test test-device lint bench install links names deps clean
all: build

build: deps
	$(GO) build $(TAGS) -o bin/masksam ./cmd/masksam

demo: build
	bin/masksam demo

test: deps
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go' 2>/dev/null || find . -name '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not gofmt-ed:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet $(TAGS) ./...
	@skipped=$$(mktemp) && trap 'rm -f "$$skipped"' EXIT; \
	  GOLDEN_SKIPPED="$$skipped" OMP_NUM_THREADS=1 $(GO) test $(TAGS) -vet=off -timeout 20m ./...; status=$$?; \
	  n=$$(wc -l < "$$skipped"); \
	  if [ $$n = 0 ]; then echo "0 golden tests were skipped"; \
	  else echo "$$n golden tests were skipped: their values lie in ../shared, which is not here"; fi; \
	  exit $$status

# Packages whose tests compute on the device that MASKSAM_TEST_DEVICE names. It computes in float32 alone; without AVX-512 so
# does the CPU, and tests of bf16 are skipped.
DEVICE_TESTS := $(addprefix ./internal/,torch masksam verify train predict)

test-device: deps
	@[ -n "$(LIBTORCH)" ] || { echo "make: test-device needs LIBTORCH=/path of a libtorch 2.x"; exit 1; }
	MASKSAM_TEST_DEVICE=cuda ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(GO) test -tags libtorch,testdevice -vet=off -timeout 40m $(DEVICE_TESTS)

lint: deps
	$(GO) vet $(TAGS) ./...
	@command -v staticcheck >/dev/null || GOBIN=$(CURDIR)/bin $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2
	PATH="$$PATH:$(CURDIR)/bin" staticcheck $(TAGS) ./...

bench: deps
	$(GO) test $(TAGS) -run '^$$' -bench . -benchmem ./...

install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 bin/masksam $(DESTDIR)$(PREFIX)/bin/masksam
	@$(MAKE) --no-print-directory links

# A name that is there and is no link to masksam is another program's, such as nnU-Net's own of pip, and stays.
links:
	@cd $(DESTDIR)$(PREFIX)/bin || exit 1; kept=; for name in $(NNUNET); do \
	  to=$$(readlink "$$name"); \
	  if [ "$${to##*/}" != masksam ] && [ -e "$$name" -o -L "$$name" ]; then kept="$$kept $$name"; \
	  else ln -sf masksam "$$name" || exit 1; fi; \
	done; \
	if [ -n "$$kept" ]; then echo "left alone, as they are another program's:$$kept"; fi

# What install links, for a test that none is missing.
names:
	@echo $(NNUNET)

deps:
	@GO="$(GO)" LIBTORCH="$(LIBTORCH)" bash build/deps.sh

clean:
	rm -rf bin
