# Names for the usual tasks; what they do is in xtask.
XTASK := cargo run --quiet -p xtask --

.PHONY: help demo test lint conformance bench
help:
	@echo "make demo         from a clean machine to a job run from a published image, beside stock containerd (root)"
	@echo "make test         everything that must hold (root)"
	@echo "make lint         format and clippy"
	@echo "make conformance  containerd's snapshotter suite over our socket (root)"
	@echo "make bench        the benchmark harness; ARGS=... are passed on"
demo test lint conformance:
	@$(XTASK) $@
bench:
	@$(XTASK) bench $(ARGS)
