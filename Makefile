# make demo: from nothing to a trained detector and its drawings. make test, make lint: what CI runs.
# make compare: all detectors on the generated shapes. make sanitize: the native operators under the
# compiler's sanitizers. make kill-test: 50 killed and resumed runs. make rare-test: tests that take too
# long for CI, each like one that it runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WORKERS ?= 3
SERIAL = $(shell grep -rl --include="test_*.py" "pytest.mark.serial" tests)

.PHONY: demo compare test rare-test lint sanitize kill-test clean

$(INSTALLED): setup.py pyproject.toml $(wildcard cpools_ext/csrc/*.* cpools_ext/csrc/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch torchvision "setuptools>=77.0.3" wheel ninja
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

demo: STARTED := $(shell date +%s)
demo: $(INSTALLED)
	$(BIN)/python -m benchmarks.demo --started $(STARTED)

compare: $(INSTALLED)
	$(BIN)/python -m benchmarks.compare

# File by file, in three processes for two cores, as some tests wait; then alone what measures short
# times. Both run, whatever fails.
test: $(INSTALLED)
	status=0; \
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not serial and not rare" || status=1; \
	$(BIN)/python -m pytest -m serial $(SERIAL) || status=1; \
	exit $$status

rare-test: $(INSTALLED)
	$(BIN)/python -m pytest -m rare tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

sanitize: $(INSTALLED)
	$(BIN)/python tests/support/sanitize.py

kill-test: $(INSTALLED)
	PYTHONPATH=. $(BIN)/python tests/support/kill.py

clean:
	rm -rf $(VENV) build cache results *.egg-info
