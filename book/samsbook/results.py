"""Results of runs, with their provenance."""

from __future__ import annotations

import ast
import inspect
import json
import os
import platform
import subprocess
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd


def root() -> Path:
    """The book's folder, wherever the kernel was started: the nearest one above that holds `_toc.yml`.

    Returns
    -------
    Path
        An absolute path.

    Raises
    ------
    FileNotFoundError
        Outside the book.
    """
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "_toc.yml").is_file():
                return folder
    raise FileNotFoundError("This is not inside the book's folder: change to the folder that holds _toc.yml.")


def results_path(name: str) -> Path:
    """Where the table of a long run lies: `data/results/<name>.csv` below the book's folder.

    Parameters
    ----------
    name
        Name of the table, without suffix; it may hold folders.

    Returns
    -------
    Path
        An absolute path, whether or not there is such a file.
    """
    return root() / "data" / "results" / f"{name}.csv"


def write_results(
    name: str,
    frame: pd.DataFrame,
    parameters: Mapping[str, Any],
    data_sha256: str | Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Path:
    """Write a table and beside it, as JSON, where it came from; both or neither.

    Parameters
    ----------
    name
        Name of the table, without suffix.
    frame
        The table. An index with a name becomes a column.
    parameters
        What `check_parameters` returned.
    data_sha256
        Checksum of the data, or one a file, by name.
    seconds
        How long the run took.

    Returns
    -------
    Path
        Where the table is.
    """
    path = results_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    origin = json.dumps(provenance(parameters, data_sha256, seconds), indent=2, sort_keys=True)
    for target, text in (
        (path, frame.to_csv(index=frame.index.name is not None, lineterminator="\n", float_format="%.6g")),
        (path.with_suffix(".json"), origin + "\n"),
    ):
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    return path


def read_results(name: str) -> pd.DataFrame:
    """The table that a long run wrote.

    Parameters
    ----------
    name
        Name of the table, without suffix.

    Returns
    -------
    DataFrame
        The table, with its provenance in `attrs`.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    """
    path = results_path(name)
    if not path.is_file():
        raise FileNotFoundError(
            f"There are no results {name!r} in data/results: run the chapter that writes them, with "
            f"`python -m samsbook run chapters/<chapter>.ipynb -f book/runs/<chapter>/{path.stem}.yaml`."
        )
    frame = pd.read_csv(path)
    if "reference" in frame:  # tables recorded before the reference was renamed
        frame["reference"] = frame["reference"].replace("official", "all cells")
    frame.attrs = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return frame


def provenance(
    parameters: Mapping[str, Any],
    data_sha256: str | Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """What one must know to repeat a run; no name of a machine or folder is in it.

    Parameters
    ----------
    parameters
        What `check_parameters` returned.
    data_sha256
        Checksum of the data, or one a file, by name.
    seconds
        How long the run took.

    Returns
    -------
    dict
        Parameters, seed, checksums, seconds, kind of machine, commit and versions.
    """
    packages = ("samslib", "torch", "numpy", "scipy", "pandas", "anndata", "scanpy")
    return {
        "parameters": dict(parameters),
        "seed": parameters.get("seed"),
        "data_sha256": dict(data_sha256) if isinstance(data_sha256, Mapping) else data_sha256,
        "seconds": None if seconds is None else round(seconds, 1),
        "machine": _machine(),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def provenance_table(results: pd.DataFrame) -> pd.DataFrame:
    """The provenance of a table, to be shown under it.

    Parameters
    ----------
    results
        A table from `read_results`.

    Returns
    -------
    DataFrame
        A row a fact.
    """
    known = dict(results.attrs)
    versions = {"python": known.pop("python", None), **known.pop("versions", {})}
    parameters = known.pop("parameters", {})
    facts = {
        "parameters": ", ".join(f"{name}={value!r}" for name, value in parameters.items()),
        **{name: value for name, value in known.items() if value is not None},
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }
    return pd.DataFrame({"value": map(str, facts.values())}, index=pd.Index(facts, name="provenance"))


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _commit() -> str | None:
    """The commit of the book's folder, marked when files other than results differ from it; None outside git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root(), capture_output=True, text=True, check=True).stdout.strip()

    with suppress(OSError, subprocess.CalledProcessError):
        changed = git("status", "--porcelain", "-uno", "--", ".", ":(exclude)data/results")
        return git("rev-parse", "HEAD") + (" (with changes)" if changed else "")
    return None


def _machine() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"cpu, {cores} cores, {platform.machine()}"


def show(*objects: Any):
    """The source of library functions or classes, as highlighted code where the cell ends, docstrings in short.

    Parameters
    ----------
    *objects
        Functions or classes.

    Returns
    -------
    Markdown
        What Jupyter displays.
    """
    from IPython.display import Markdown

    source = "\n\n".join(_in_short(textwrap.dedent(inspect.getsource(thing)).strip()) for thing in objects)
    return Markdown(f"````python\n{source}\n````")


def _in_short(source: str) -> str:
    """A source whose docstrings end with their first line; the reference has the rest."""
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.FunctionDef | ast.ClassDef) and "\n" in (
            text := ast.get_docstring(part, clean=False) or ""
        ):
            source = source.replace(text, text.partition("\n")[0])
    return source
