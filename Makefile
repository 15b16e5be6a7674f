# Each goal does all its own set-up, in a fresh clone too: a virtual environment in .venv,
# the package compiled and installed into it, and what the goal needs besides.
#
#   make demo       hotloop beside scikit-learn: a table and demo.png  (make demo ARGS="--data DIR")
#   make test       the tests, and on every usable instruction set those of kernels and of scikit-learn itself
#   make check-all  the same with the slow ones, and where their tools are there:
#     check-numba         all tests on numba
#     check-threads       all tests with one thread, and with four
#     check-baseline-cpu  the kernels on an x86-64 processor without AVX, emulated
#     check-aarch64       the kernels on 64-bit ARM, cross-compiled and emulated
#     check-clang         the kernels compiled by clang
#     check-cuda          the CUDA kernels compiled to PTX, which needs no GPU
#     check-versions      the tests on other versions of Python, NumPy and scikit-learn
#   make bench      training time beside scikit-learn and PyTorch    (make bench ARGS="--rows 0 1")
#                   and what else is in benchmarks/: make bench BENCH=steps, predictions, grid,
#                   fixed_costs, threads, searches, sparse, bfloat16, import_time, cross_val, gpu,
#                   custom, together, muon, recipe, readme
#   make lint       format and lint
#   make types      mypy on the installed package

PYTHON ?= python3
# What runs once for every instruction set: the kernels, and scikit-learn's own suite.
KERNEL_TESTS := $(addprefix tests/,test_kernels.py test_blocks.py test_few_rows.py test_sparse.py \
  test_bfloat16.py test_generator.py test_activations.py test_normalization.py)
ISA_TESTS ?= $(KERNEL_TESTS) tests/test_sklearn_suite.py
# What runs once more on numba: ops against the oracle, estimators, scikit-learn's own suite.
NUMBA_TESTS := $(addprefix tests/,test_kernels.py test_activations.py test_backends.py \
  test_sparse.py test_runner_contract.py test_training.py test_estimators.py test_sklearn_suite.py)
BENCH ?= estimators
# Two processes: most of the time is scikit-learn's own.
PYTEST ?= $(BIN)/pytest -n 2

BIN := .venv/bin
STAMPS := .venv/stamps
EXTRAS_test := test,numba
SOURCES := pyproject.toml setup.py README.md \
  $(shell find src kernels -name '*.py' -o -name '*.px[yi]' -o -name '*.[ch]' -o -name py.typed)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check-all check-numba check-threads check-baseline-cpu check-aarch64 \
  check-clang check-versions check-cuda bench lint types clean
.DELETE_ON_ERROR:

demo: $(STAMPS)/demo
	$(BIN)/python demo $(ARGS)

test: $(STAMPS)/test
	$(call run_tests,-m "not slow")

check-all: $(STAMPS)/test
	$(call run_tests,)
	$(MAKE) check-numba check-threads check-baseline-cpu check-aarch64 check-clang check-versions check-cuda

check-numba: $(STAMPS)/test
	HOTLOOP_BACKEND=numba $(PYTEST) -m "not slow"

check-threads: $(STAMPS)/test
	for n in 1 4; do HOTLOOP_NUM_THREADS=$$n $(PYTEST) -m "not slow" || exit 1; done

check-baseline-cpu: $(STAMPS)/test
	.ci/elsewhere nehalem -n 2 $(KERNEL_TESTS)

check-aarch64: $(BIN)/python
	.ci/elsewhere aarch64 -n 2 $(KERNEL_TESTS) tests/test_runner_contract.py

check-clang: $(BIN)/python
	.ci/elsewhere clang -n 2 $(KERNEL_TESTS)

check-versions: $(BIN)/python
	for minor in 11 12 13 14; do .ci/elsewhere python3.$$minor -n 2 -m "not slow" || exit 1; done

check-cuda: $(BIN)/python
	$(BIN)/python -m venv build/cuda && build/cuda/bin/pip install -q ".[cuda]"
	build/cuda/bin/python tests/compile_ptx.py || test $$? = 77

bench: $(STAMPS)/demo
	$(BIN)/python benchmarks/$(BENCH).py $(ARGS)

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint kernels  # it calls pycodestyle by name
	$(BIN)/clang-format --dry-run -Werror kernels/*.[ch] benchmarks/*.c
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(STAMPS)/dev
	$(BIN)/mypy -p hotloop

clean:
	rm -rf .venv build dist src/*.egg-info

# $(1): which tests. A set that is not usable is an error at import, so the loop cannot skip one.
define run_tests
	$(PYTEST) $(1)
	@sets=$$($(BIN)/python -c "import hotloop.kernels as k; print(*k.usable())") && test -n "$$sets" && \
	for isa in $$sets; do \
	  echo "HOTLOOP_ISA=$$isa"; HOTLOOP_ISA=$$isa $(PYTEST) $(1) $(ISA_TESTS) || exit 1; \
	done
	HOTLOOP_BACKEND=numba $(PYTEST) $(1) $(NUMBA_TESTS)
	NUMBA_ENABLE_CUDASIM=1 $(PYTEST) $(1) tests/test_cuda.py tests/test_launches.py tests/test_races.py \
	  tests/test_normalization.py
endef

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "hotloop needs Python 3.11 or later, and $(PYTHON) is not that. Name one that is:" \
	  "make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Not an editable install: the tests see what a user gets. build/lib goes first, or a wheel
# would still hold modules that are no longer there; compiled objects stay and are reused.
$(STAMPS)/package: $(SOURCES) | $(BIN)/python
	@echo "Compiling and installing hotloop: about a minute the first time."
	@rm -rf build/lib* build/bdist* && mkdir -p $(STAMPS)
	$(BIN)/pip install -q .
	@touch $@

$(STAMPS)/demo $(STAMPS)/test $(STAMPS)/dev: $(STAMPS)/%: pyproject.toml $(STAMPS)/package
	$(BIN)/pip install -q "hotloop[$(or $(EXTRAS_$*),$*)]"
	@touch $@
