# Every target works in a fresh clone: the virtual environment is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format docs bench kills clean

demo: $(BIN)/whalebench  ## draw flukes, train arcface on fold 0, print the leaderboard
	$(BIN)/whalebench run arcface --fold 0
	$(BIN)/whalebench report

test: .venv/dev  ## the tests
	$(BIN)/python -m pytest

check: .venv/dev  ## the one gate: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

format: .venv/dev  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(BIN)/whalebench  ## docs/methods.md, from the methods
	$(BIN)/whalebench methods --markdown docs/methods.md

bench: $(BIN)/whalebench  ## the numbers of the README, on five folds of flukes (an hour of one core)
	$(BIN)/whalebench run arcface --fold 0 --set epochs=0
	$(BIN)/whalebench sweep softmax bbox aligned arcface --folds 0-4

kills: .venv/dev  ## every method that trains, killed thirty times: does it end as if it had not been?
	$(BIN)/python tests/kills.py --kills 30

$(BIN)/whalebench: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $(BIN)/whalebench

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/dev

clean:  ## what can be made again, except the workspace
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage
