# One target an artefact. Each makes .venv when it is missing, and does not redo what is done.
.PHONY: book slides pdf test lint bench bench-scale probes noise scores cost paper serve diff new-chapter clean
.DEFAULT_GOAL := book
.DELETE_ON_ERROR:

# The first interpreter that is there, works and is of a supported version.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
PORT ?= 8000
NOTEBOOKS := $(wildcard chapters/*.ipynb)
SCRATCH := .tested/chapters
# Small tensors: more threads than one only wait for each other, the more so on a busy machine.
export OMP_NUM_THREADS ?= 1

# After a change of prose alone, only the pages that changed are read; FULL=1 reads all.
book: $(READY)
	$(BIN)/python -m samsbook.build $(if $(FULL),--full)

# A file a chapter in _build/slides, from the pages of the book.
slides: book
	$(BIN)/python -m samsbook.slides

# The chapters run as copies, whose outputs then go into the book: it is checked whole, and nothing is run twice.
# (Not under _build, which nbmake passes over.)
test: $(READY)
	$(BIN)/python -m pytest
	rm -rf $(SCRATCH) && mkdir -p $(SCRATCH) && cp $(NOTEBOOKS) $(SCRATCH)
	$(BIN)/python -m pytest -q --nbmake --nbmake-timeout=600 --overwrite --durations=0 $(SCRATCH)
	$(BIN)/python -m samsbook.build --executed $(SCRATCH)
	$(BIN)/python -m pytest -q tests/test_browser.py tests/test_figures.py

# The whole book in one file, printed by a browser of the system.
pdf: book
	$(BIN)/python -m samsbook.pdf

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/codespell book chapters samslib tests README.md CONTRIBUTING.md CHANGELOG.md
	$(BIN)/nbstripout --verify --extra-keys "metadata.papermill cell.metadata.papermill" $(NOTEBOOKS)

bench: $(READY)
	$(BIN)/python -m samsbook.bench
	$(BIN)/python -m samsbook.bench_imports

# A million cells on disk: about ten minutes, and 2 GB in the temporary folder while it runs.
bench-scale: $(READY)
	$(BIN)/python -m samsbook.bench_scale

probes: $(READY)
	$(BIN)/python -m samsbook.probes

# Particles against the standard error of average effects, plain and with control variates.
noise: $(READY)
	$(BIN)/python -m samsbook.noise

# Every model, baseline and data-only predictor on the bundled pairs, with intervals and ceiling.
scores: $(READY)
	$(BIN)/python -m samsbook.compare

# What the full grid takes, from seconds a step measured here; on a machine with a GPU, of that GPU.
cost: $(READY)
	$(BIN)/python -m samsbook.cost full --write

# The paper's grid of book/grid.yaml, presets small, devel and full: does what is missing, gathers to data/results.
# WORDS go to Snakemake, as in WORDS="--executor slurm --jobs 100"; see book/rerun.md.
PRESET ?= small
paper: $(READY)
	$(BIN)/python -m samsbook.grid run $(PRESET) $(WORDS)

# A page that is saved is built again and shown anew; a chapter whose code changed runs first.
serve: $(READY)
	@$(BIN)/python -m samsbook.serve --port $(PORT)

# What changed, notebooks by their text; WORDS go to git, as in WORDS="main -- chapters".
diff: $(READY)
	@git -c diff.notebook.textconv="$(BIN)/python -m samsbook.text" diff $(WORDS)

# make new-chapter NAME=10_my_chapter
new-chapter: $(READY)
	$(BIN)/python -m samsbook.new_chapter $(NAME)

clean:
	rm -rf _build .tested .venv *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch first and pinned: left to itself, pip may pick a build of several gigabytes.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed: install one, or name it with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[book,grid,test]"
	@touch $@
