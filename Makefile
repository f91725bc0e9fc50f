# Every target works in a fresh clone: the virtual environment is made when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint check format docs page bench numbers golden faults kills clean

demo: $(BIN)/whalebench  ## draw flukes, train arcface on fold 0, print the leaderboard
	$(BIN)/whalebench run arcface --fold 0
	$(BIN)/whalebench report

test: .venv/dev  ## the tests
	$(BIN)/python -m pytest

lint: .venv/dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test  ## the one gate

format: .venv/dev  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(BIN)/whalebench  ## docs/methods.md, from the methods
	$(BIN)/whalebench methods --markdown docs/methods.md

page: $(BIN)/whalebench  ## every method of the README on flukes, then their page and its first table (77 minutes of two cores)
	$(BIN)/whalebench sweep softmax bbox aligned arcface triplet siamese ensemble --folds 0-4 --seeds 2-3 --jobs 2
	$(BIN)/whalebench report --benchmark flukes --html flukes.html --svg docs/leaderboard.svg

bench: .venv/dev  ## how fast beside what else there is: every ratio, measured in turn (half an hour, alone on the machine)
	$(BIN)/python -m tests.bench

numbers: golden page  ## the numbers of the README, and how often intervals hold the truth (longer than page)
	$(BIN)/python tests/simulation.py
	$(BIN)/whalebench run arcface --fold 0 --set epochs=0

golden: .venv/dev  ## does every method still give the bytes it gave? The first time they are noted
	OMP_NUM_THREADS=1 $(BIN)/python tests/golden_runs.py workspace/golden.json

faults: .venv/dev  ## hostile inputs, kills, full disks, races, plug-ins, in miniature; a quarter of an hour
	$(BIN)/python -m tests.faults

kills: .venv/dev  ## every method that trains, killed thirty times: does it end as if it had not been?
	$(BIN)/python -m tests.faults methods --count 30

$(BIN)/whalebench: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $(BIN)/whalebench

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/dev

clean:  ## what can be made again, except the workspace
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
