"""Rerun a chapter with other parameters, from a shell; every name and type is checked before anything runs.

python -m samslib.book parameters chapters/02_inference.ipynb
python -m samslib.book run chapters/02_inference.ipynb -p steps 2000 -o mine.ipynb
python -m samslib.book run chapters/02_inference.ipynb -f book/runs/02_inference/full.yaml
python -m samslib.book run chapters/05_norman_combinatorial.ipynb --training -p results mine
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from samslib.book import Parameter, ParameterError, declared, refuse_unknown, root, spoken, training_part


def main(arguments: list[str] | None = None) -> int:
    """The command line of the module's text. Returns the exit status; one line says what went wrong."""
    parser = argparse.ArgumentParser("python -m samslib.book", description="Rerun a chapter with parameters.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("parameters", help="list a chapter's parameters")
    running = commands.add_parser("run", help="run a chapter")
    for command in (listing, running):
        command.add_argument("chapter", type=Path, help="a notebook, such as chapters/02_inference.ipynb")
    pair: dict[str, Any] = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    running.add_argument("-p", "--parameter", **pair, help="set one parameter")
    running.add_argument("-f", "--file", type=Path, help="a YAML file of parameters; -p wins over it")
    running.add_argument("-o", "--output", type=Path, help="where the notebook with its outputs goes")
    running.add_argument(
        "-t", "--training", action="store_true", help="run only the cells that train and write results"
    )
    options = parser.parse_args(arguments)
    try:
        known = declared(options.chapter)
        if options.command == "parameters":
            table = [(p.name, spoken(p.annotation), repr(p.default), p.help) for p in known.values()]
            print(pd.DataFrame(table, columns=["name", "is", "default", "meaning"]).to_string(index=False))
            return 0
        return _run(options, known)
    except (ParameterError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace, known: Mapping[str, Parameter]) -> int:
    import papermill

    given = (_parameter_file(options.file) if options.file else {}) | dict(options.parameter)
    refuse_unknown(given, known)
    values = {name: known[name].check(known[name].read(value)) for name, value in given.items()}
    stem = f"{options.chapter.stem}-{options.file.stem}" if options.file else options.chapter.stem
    output = options.output or root() / "_build" / "runs" / f"{stem}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    # It calls parameters with a list of choices unknown, for it cannot read their annotation; they were checked above.
    logging.getLogger("papermill").addFilter(lambda record: "Passed unknown parameter" not in record.getMessage())
    chapter = training_part(options.chapter) if options.training else options.chapter
    start = time.perf_counter()
    try:
        papermill.execute_notebook(chapter, output, values, kernel_name="python3", cwd=options.chapter.parent)
    except papermill.PapermillExecutionError as error:
        problem = f"{options.chapter.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}"
        print(f"{problem.rstrip('.')}. What was run so far is in {output}.", file=sys.stderr)
        return 1
    print(f"{options.chapter.name} ran in {time.perf_counter() - start:.0f} s; the notebook is {output}.")
    return 0


def _parameter_file(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"There is no parameter file {str(path)!r}: look in book/runs/ for those that exist.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ParameterError(f"{path.name} must hold lines of `name: value`.")
    return values


if __name__ == "__main__":
    sys.exit(main())
