# Names for the usual tasks; what they do is in xtask.
XTASK := cargo run --quiet -p xtask --

.PHONY: help demo test lint conformance bench bench-estargz
help:
	@echo "make demo         from a clean machine to a job run from a published image, beside stock containerd (root)"
	@echo "make test         everything that must hold (root)"
	@echo "make lint         format and clippy"
	@echo "make conformance  containerd's snapshotter suite over our socket (root)"
	@echo "make bench        the benchmark harness; ARGS=... are passed on"
	@echo "make bench-estargz  beside the real stargz-snapshotter; ARGS=... are passed on (root)"
demo test lint conformance:
	@$(XTASK) $@
bench:
	@$(XTASK) bench $(ARGS)
bench-estargz:
	@$(XTASK) bench-estargz $(ARGS)
