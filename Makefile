# Everything runs in .venv, which these targets make. `make run` and `make test` need Python 3.11 or
# newer with pip, and a package index.
PYTHON ?= python3
BIN := .venv/bin
CLIP := tests/data/librivox-0870.wav
KERNELS := $(wildcard engine/kernels/csrc/*.[ch])
LONG := speech or gpu or chaos or sharded or cluster or page

.PHONY: run stop test test-more test-page test-field test-chaos test-cluster test-sharded test-speech k8s check format clean

run: .venv/.run  ## serve the demo models on this machine, and transcribe a clip over HTTP; PORT=9000
	@url=$$($(BIN)/murmur up $(if $(PORT),--port $(PORT))) && $(BIN)/python examples/transcribe_http.py $$url $(CLIP) \
		&& echo "Serving at $$url: open it in a browser. Its API: $$url/docs. To stop: make stop"

stop:  ## end what `make run` started
	$(BIN)/murmur down

# Those on the cluster alone, for they need both cores; of the others a file's tests stay in one process.
test: .venv/.dev  ## the tests that need nothing but this repository
	$(BIN)/python -m pytest tests/e2e -m "not (more or $(LONG))"
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/e2e -m "not (more or $(LONG))"

test-more: .venv/.dev  ## the same proofs on more models, precisions and clips, and slow ones of their own
	$(BIN)/python -m pytest tests/e2e -m "more and not ($(LONG))"
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/e2e -m "more and not ($(LONG))"

test-page: .venv/.dev  ## the page in Chromium, on a real cluster; installs Debian's; ARGS="-k cluster"
	scripts/test-page $(ARGS)

test-field: .venv/.dev  ## what real clients send and what should come out, as a table; ARGS="--murmur PATH --compare FILE"
	$(BIN)/python -m tests.field $(ARGS)

test-chaos: .venv/.dev  ## replicas, ranks and nodes that die, chunks that kill, overload; an hour
	MURMUR_TEST_KILLS=20 $(BIN)/python -m pytest -m chaos

test-cluster: .venv/.dev  ## Ray's launchers on hosts and against stand-ins of clouds, the image's steps, alerts; as root
	$(BIN)/python -m pytest -m cluster

test-sharded: .venv/.dev  ## every mesh and cut gives one rank's tokens; large-v3 over four ranks; half an hour
	$(BIN)/python -m pytest -m sharded

test-speech: .venv/.dev  ## long, multilingual speech; installs Debian's speech packages
	scripts/test-speech

k8s: .venv/.run  ## write what k8s/ takes from the settings
	$(BIN)/python scripts/k8s_serve_configs.py

check: .venv/.dev  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(KERNELS)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck -x $(filter-out %.py %__pycache__,$(wildcard scripts/*))

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(KERNELS)

clean:
	rm -rf .venv build engine/kernels/*.so *.egg-info .pytest_cache .mypy_cache .ruff_cache

# torch goes first and alone: the constraints name the build that every other package must accept.
.venv/.run: pyproject.toml constraints.txt $(KERNELS)
	$(PYTHON) -m venv .venv
	rm -f engine/kernels/*.so
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo]'
	touch $@

.venv/.dev: .venv/.run
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo,bench,training,dev]'
	touch $@
