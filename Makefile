# Every target works on a fresh machine: the environment is made on first use and reused afterwards.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo endgames test check install clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(INSTALLED)

install: $(INSTALLED)  ## make the environment in .venv

demo: $(INSTALLED)  ## from random weights to a player that beats its teacher; prints where the report is
	$(BIN)/outdo run recipes/chess_endgame.toml

endgames: $(INSTALLED)  ## the full tree of arms and controls, three seeds, then one table
	@for seed in 0 1 2; do \
	  dir=runs/endgames-seed$$seed; \
	  if [ -d $$dir ]; then $(BIN)/outdo run --resume $$dir || exit $$?; \
	  else $(BIN)/outdo run recipes/endgames.toml --seed $$seed --out $$dir || exit $$?; fi; \
	done
	$(BIN)/outdo compare runs/endgames-seed0 runs/endgames-seed1 runs/endgames-seed2

test: $(INSTALLED)  ## everything
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(INSTALLED)  ## lint, types, fast tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" -q -n 2 --dist loadfile

clean:
	rm -rf $(VENV) runs
