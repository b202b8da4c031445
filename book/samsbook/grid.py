"""The paper's grid: every run of `book/grid.yaml` as one checked papermill run of a chapter's training part.

python -m samsbook.grid list small                 the runs, and which are done
python -m samsbook.grid run small                  what is left, through Snakemake; then gathers (`make paper`)
python -m samsbook.grid run full --executor slurm --jobs 100     on a cluster; further words go to Snakemake
python -m samsbook.grid one small/norman/...       one run, in this process
python -m samsbook.grid gather small               tables of what is there, a list of what is not

A run writes one row to data/results/grid/<preset>/<experiment>/<run>.csv, its provenance beside it (.json), the
notebook with its outputs (.ipynb) and what was printed (.log). A row that is there is never made again, unless its
parameters change. Gathered tables are data/results/grid-<preset>-<experiment>.csv.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from samsbook.parameters import ParameterError, declared, parameter_file, refuse_unknown
from samsbook.results import read_results, results_path, root, write_results

PLAN = "book/grid.yaml"

SPEC = ("chapter", "file", "parameters", "axes", "variants")


class GridError(ValueError):
    """The plan, or what a run of it wrote, is not what it should be."""


@dataclass(frozen=True)
class Run:
    """One run: `name` is "<preset>/<experiment>/<run>"; `parameters` hold all that is not the chapter's default."""

    name: str
    chapter: str
    parameters: Mapping[str, Any]
    varied: Mapping[str, Any]  # the parameters that tell this run from the others of its experiment

    @property
    def results(self) -> str:
        return f"grid/{self.name}"

    @property
    def row(self) -> Path:
        return results_path(self.results)

    def command(self) -> list[str]:
        """The words after `python -m` that make the row."""
        given = [word for name, value in self.parameters.items() for word in ("-p", name, str(value))]
        notebook = self.row.with_suffix(".ipynb")
        return ["samsbook", "run", self.chapter, "--training", *given, "-p", "results", self.results,
                "-o", str(notebook.relative_to(root()))]  # fmt: skip


def plan() -> dict[str, dict[str, dict[str, Any]]]:
    """What `book/grid.yaml` says, by preset and experiment; a name with a dot in front only holds what others repeat.

    Returns
    -------
    dict
        From preset to experiment to its keys, those of `SPEC`.

    Raises
    ------
    GridError
        If there is no such file, or it is not of this form.
    ParameterError
        If it is not YAML.
    """
    if not (root() / PLAN).is_file():
        raise GridError(f"There is no {PLAN}: it holds the presets; take it from the repository.")
    presets = parameter_file(root() / PLAN)
    presets = {name: kinds for name, kinds in presets.items() if not name.startswith(".")}
    if not all(isinstance(kinds, dict) for kinds in presets.values()):
        raise GridError(f"{PLAN} must hold `preset:`, below each `experiment:`, and below each {', '.join(SPEC)}.")
    return presets


def runs(preset: str) -> dict[str, Run]:
    """The runs of a preset: for each experiment its `axes` (lists of values) times its `variants` (sets of parameters).

    Parameters
    ----------
    preset
        A name in `book/grid.yaml`. An experiment's `file` and `parameters` hold for all its runs.

    Returns
    -------
    dict
        `Run` by name.

    Raises
    ------
    GridError
        For an unknown preset or key, and for two runs of one name.
    ParameterError
        For a parameter that the chapter does not have, or a value of the wrong type.
    FileNotFoundError
        For a file that is not there.
    """
    presets = plan()
    if preset not in presets:
        raise GridError(f"There is no preset {preset!r} in {PLAN}: choose {' or '.join(presets)}.")
    found: dict[str, Run] = {}
    for experiment, spec in presets[preset].items():
        if unknown := set(spec) - set(SPEC):
            raise GridError(f"{PLAN}, {preset}, {experiment}: there is no key {min(unknown)!r}; use {', '.join(SPEC)}.")
        known = declared(root() / spec["chapter"])
        common = parameter_file(root() / spec["file"]) if "file" in spec else {}
        common = common | spec.get("parameters", {})
        axes = {name: list(values) for name, values in spec.get("axes", {}).items()}
        for variant in spec.get("variants", [{}]):
            free = {name: values for name, values in axes.items() if name not in variant}
            for point in itertools.product(*free.values()):
                varied = variant | dict(zip(free, point, strict=True))
                given = common | varied
                refuse_unknown(given, known)
                given = {name: known[name].check(known[name].read(value)) for name, value in given.items()}
                given.pop("results", None)
                name = f"{preset}/{experiment}/{'_'.join(_slug(value) for value in varied.values()) or 'only'}"
                if name in found:
                    raise GridError(f"{PLAN}: two runs are called {name}; variants and axes must tell them apart.")
                found[name] = Run(name, spec["chapter"], given, {key: given[key] for key in varied})
    return found


def _slug(value: Any) -> str:
    return re.sub(r"[^a-z0-9.+]+", "-", str(value).lower()).strip("-") or "none"


def one(name: str) -> None:
    """Make one row: papermill runs the training part of the chapter, then the row is checked.

    Parameters
    ----------
    name
        Name of a run, as `runs` gives it.

    Raises
    ------
    GridError
        If the run fails or its table is not one row of finite scores; the row is then removed.
    """
    from samsbook.__main__ import main

    wanted = runs(name.split("/")[0])
    if name not in wanted:
        raise GridError(f"There is no run {name!r}: `python -m samsbook.grid list` names them.")
    run = wanted[name]
    words = run.command()
    print("repeat with: python -m", shlex.join(words), flush=True)
    with ExitStack() as held:
        os.environ.update(held.enter_context(_a_gpu()))
        status = main(words[1:])
    if status:
        raise GridError(f"{name} failed with status {status}; see what stands above.")
    try:
        _checked(run)
    except GridError:
        for suffix in (".csv", ".json"):
            run.row.with_suffix(suffix).unlink(missing_ok=True)
        raise


def _checked(run: Run) -> pd.DataFrame:
    """The run's table, which must be one row, of the run's parameters, without an infinite number, with a score."""
    table = read_results(run.results)
    for name, was in table.attrs["parameters"].items():
        if name in run.parameters and was != run.parameters[name]:
            raise GridError(
                f"{run.name} was made with {name} = {was!r}, and {PLAN} says {run.parameters[name]!r}: delete its row."
            )
    if len(table) != 1:
        raise GridError(f"{run.name} wrote {len(table)} rows, where a run of the grid writes one.")
    numbers = table.select_dtypes("number")
    scores = numbers.drop(columns=[name for name in run.parameters if name in numbers])
    if bad := [name for name in numbers if np.isinf(numbers[name].iloc[0])]:
        raise GridError(f"{run.name} wrote {bad[0]} = {numbers[bad[0]].iloc[0]}: the training diverged.")
    if scores.isna().all(axis=None):
        raise GridError(f"{run.name} wrote no score that is a number: the training diverged.")
    return table


@contextmanager
def _a_gpu() -> Iterator[dict[str, str]]:
    """The first GPU that no other run of the grid on this machine holds, as an environment; Snakemake sees to it
    that no more runs are started than there are GPUs. Nothing where the scheduler has chosen, or there are none."""
    for i in range(0 if "CUDA_VISIBLE_DEVICES" in os.environ else gpus()):
        with _lock(root() / "data" / "results" / "grid" / f".gpu{i}") as lock:
            if lock is not None:
                yield {"CUDA_VISIBLE_DEVICES": str(i)}
                return
    yield {}


def gpus() -> int:
    """GPUs that the driver lists; asked of the driver's own tool, since to ask torch would take one."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0


@contextmanager
def _lock(path: Path) -> Iterator[int | None]:
    """A descriptor that holds the lock, or None if another has it. The system frees a lock when the last process that
    holds it ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file.fileno()


def run(preset: str, words: list[str]) -> int:
    """Make what is missing of a preset through Snakemake, a failing run leaving the others alone, and gather.

    After a kill the same call goes on: rows that are there stay, what was in flight is made again.

    Parameters
    ----------
    preset
        A name in `book/grid.yaml`.
    words
        Further arguments of Snakemake.

    Returns
    -------
    int
        0 if every row is there, else 1.

    Raises
    ------
    GridError
        If another `run` is at work in this folder.
    """
    wanted = runs(preset)  # a wrong plan is told before anything starts
    here = root()
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(here / "Snakefile"), "--directory", str(here)]
    elsewhere = "--executor" in words or "--profile" in words
    gpu = 1 if elsewhere else min(1, gpus())
    config = ["--config", f"preset={preset}", f"gpu={gpu}"]
    local = [] if elsewhere else ["--cores", str(_cores()), "--resources", f"gpu={gpus()}"]
    with _lock(here / "data" / "results" / "grid" / ".lock") as lock:
        if lock is None:
            raise GridError("Another `grid run` is at work in this folder: wait for it, or stop it first.")
        options = ["--keep-going", "--rerun-incomplete", "--nolock", "--quiet", "rules", *local, *words]
        # Snakemake holds our lock too: if this process alone is killed, nobody starts a second one beside it.
        process = subprocess.Popen([*snakemake, *options, *config], pass_fds=[lock])
        try:
            process.wait()
        except KeyboardInterrupt:  # which Snakemake got as well: it stops its runs, and then this one gathers
            process.wait()
        done = gather(preset)
    return 0 if done == len(wanted) else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gather(preset: str) -> int:
    """Write one table an experiment from the rows that are there, and print what is missing and why.

    A row keeps the commit, the kind of machine and the seconds of its own run.

    Parameters
    ----------
    preset
        A name in `book/grid.yaml`.

    Returns
    -------
    int
        The number of rows.
    """
    wanted = runs(preset)
    tables: dict[str, list[pd.DataFrame]] = {}
    missing: dict[str, str] = {}
    for run in wanted.values():
        try:
            row = _checked(run)
        except FileNotFoundError:
            missing[run.name] = _last_words(run)
            continue
        except GridError as error:
            missing[run.name] = str(error)
            continue
        origin = row.attrs
        row = row.assign(commit=str(origin["commit"])[:10], machine=origin["machine"])
        row.attrs = {**origin, "run": run}
        tables.setdefault(run.name.split("/")[1], []).append(row)
    for experiment, rows in tables.items():
        common: dict[str, Any] = {"preset": preset, "experiment": experiment, "runs": len(rows)}
        shared = [dict(row.attrs["run"].parameters) for row in rows]
        common |= {name: v for name, v in shared[0].items() if all(p.get(name) == v for p in shared)}
        sums = {json.dumps(row.attrs["data_sha256"]) for row in rows}
        data = json.loads(sums.pop()) if len(sums) == 1 else None
        seconds = sum(row.attrs["seconds"] or 0 for row in rows)
        path = write_results(f"grid-{preset}-{experiment}", pd.concat(rows, ignore_index=True), common, data, seconds)
        print(f"{len(rows)} rows in {path.relative_to(root())}.")
    if missing:
        print(f"{len(missing)} of {len(wanted)} runs are missing:")
    for name, why in missing.items():
        print(f"  {name}: {why}")
    return len(wanted) - len(missing)


def _last_words(run: Run) -> str:
    """The line of a run's log that says what went wrong; or of its data's, if those were not to be had."""
    fetched = results_path(f"grid/.data/{run.parameters.get('dataset')}")
    for log in (run.row.with_suffix(".log"), fetched.with_suffix(".log")):
        if log.is_file():
            text = log.read_text(encoding="utf-8", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            telling = [line for line in lines if "failed in cell" in line or "Error" in line]
            return (telling[:1] or lines[-1:] or ["stopped without a word"])[0][:300]
    return "not run yet"


def status(preset: str) -> pd.DataFrame:
    """One row a run of the preset: experiment, its parameters in words, and whether its row is there."""
    return pd.DataFrame(
        [
            {"run": run.name, "chapter": Path(run.chapter).stem, "done": run.row.is_file()}
            for run in runs(preset).values()
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line of the module's text. Returns the exit status; one line says what went wrong."""
    parser = argparse.ArgumentParser("python -m samsbook.grid", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("list", "run", "one", "gather"))
    parser.add_argument("name", help="a preset of book/grid.yaml; for `one`, a run")
    options, words = parser.parse_known_args(arguments)
    try:
        if words and options.command != "run":
            raise GridError(f"{words[0]!r} is not understood: only `run` takes further words, which go to Snakemake.")
        if options.command == "run":
            return run(options.name, words)
        if options.command == "one":
            one(options.name)
        elif options.command == "gather":
            return 0 if gather(options.name) == len(runs(options.name)) else 1
        else:
            table = status(options.name)
            print(table.to_string(index=False))
            print(f"{table['done'].sum()} of {len(table)} done")
        return 0
    except (GridError, ParameterError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
