# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: test demo docs bench bench-scale bench-review bench-serve bench-zoo backbones fuzz lint types clean

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(READY)

demo: $(READY)
	bash examples/demo.sh

test: lint types
	$(BIN)/python -m pytest

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

bench-scale: $(READY)
	$(BIN)/python tests/bench_scale.py $(SCALE)

bench-review: $(READY)
	$(BIN)/python tests/bench_review.py

bench-zoo: $(READY)
	$(BIN)/python tests/bench_zoo.py

bench-serve: $(READY)
	$(BIN)/python tests/bench_serve.py $(SERVE)

bench: $(READY)
	$(BIN)/python tests/bench_hier.py
	$(BIN)/python tests/bench_loading.py
	$(BIN)/python tests/bench_embed.py
	$(BIN)/python tests/bench_index.py
	$(BIN)/python tests/bench_startup.py
	$(BIN)/python tests/bench_tree.py

backbones: $(READY)
	$(BIN)/python tests/backbones.py

fuzz: $(READY)
	$(BIN)/python tests/fuzz.py $(FUZZ)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
