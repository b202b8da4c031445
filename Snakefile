# The paper's grid: a run of book/grid.yaml is one papermill run of a chapter's training part, and one row.
# `make paper PRESET=small` calls it through `python -m samsbook.grid run small`, which gathers the rows.
import sys

from samsbook.grid import runs

RUNS = runs(config["preset"])
GRID = "data/results/grid"


localrules:
    all,
    data,


rule all:
    input:
        expand(GRID + "/{name}.csv", name=RUNS),


# Fetched once, before the runs that read it, not by all of them at the same time.
rule data:
    output:
        touch(GRID + "/.data/{dataset}"),
    log:
        GRID + "/.data/{dataset}.log",
    wildcard_constraints:
        dataset="[^/.]+",
    shell:
        "{sys.executable} -c 'import samslib; samslib.datasets.load(\"{wildcards.dataset}\")' > {log:q} 2>&1"


def its_data(wildcards):
    dataset = RUNS[wildcards.name].parameters.get("dataset")
    return ancient(f"{GRID}/.data/{dataset}") if dataset else []


# Rows depend on their parameters and on nothing else: a reworded chapter does not redo a month of training. The commit
# that a row is from stands in it; after a change that matters, delete the rows.
rule row:
    input:
        its_data,
    output:
        GRID + "/{name}.csv",
    params:
        values=lambda wildcards: dict(RUNS[wildcards.name].parameters),
    log:
        GRID + "/{name}.log",
    threads: 1
    resources:
        gpu=int(config.get("gpu", 0)),
    shell:
        "OMP_NUM_THREADS={threads} {sys.executable} -m samsbook.grid one {wildcards.name:q} > {log:q} 2>&1"
