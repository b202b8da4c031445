"""Rerun a chapter with other parameters, from a shell; every name and type is checked before anything runs.

python -m samsbook parameters chapters/02_inference.ipynb
python -m samsbook run chapters/02_inference.ipynb -p steps 2000 -o mine.ipynb
python -m samsbook run chapters/02_inference.ipynb -f book/runs/02_inference/full.yaml
python -m samsbook run chapters/05_norman_combinatorial.ipynb --training -p results mine
python -m samsbook report my.h5ad --perturbation guide --control NT --target gene -o report.html
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

from samsbook import report
from samsbook.parameters import (
    Parameter,
    ParameterError,
    declared,
    no_kernel,
    parameter_file,
    refuse_unknown,
    spoken,
    training_part,
)
from samsbook.results import root


def main(arguments: list[str] | None = None) -> int:
    """The command line of the module's text. Returns the exit status; one line says what went wrong."""
    parser = argparse.ArgumentParser("python -m samsbook", description="Rerun a chapter with parameters.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("parameters", help="list a chapter's parameters")
    running = commands.add_parser("run", help="run a chapter")
    for command in (listing, running):
        command.add_argument("chapter", type=Path, help="a notebook, such as chapters/02_inference.ipynb")
    reporting = commands.add_parser("report", help="a report on your own cells, in one HTML file")
    reporting.add_argument("adata", type=Path, help="an .h5ad file of raw counts")
    for name, what in report.COLUMNS.items():
        reporting.add_argument(f"--{name.replace('_', '-')}", help=what)
    pair: dict[str, Any] = {"nargs": 2, "metavar": ("NAME", "VALUE"), "action": "append", "default": []}
    running.add_argument("-f", "--file", type=Path, help="a YAML file of parameters; -p wins over it")
    for command, what in ((running, "notebook with its outputs"), (reporting, "HTML file")):
        command.add_argument("-p", "--parameter", **pair, help="set one parameter")
        command.add_argument("-o", "--output", type=Path, help=f"where the {what} goes")
    running.add_argument(
        "-t", "--training", action="store_true", help="run only the cells that train and write results"
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "report":
            return _report(options)
        known = declared(options.chapter)
        if options.command == "parameters":
            table = [(p.name, spoken(p.annotation), repr(p.default), p.help) for p in known.values()]
            print(pd.DataFrame(table, columns=["name", "is", "default", "meaning"]).to_string(index=False))
            return 0
        return _run(options, known)
    except (ParameterError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"Chapters run with {error.name}, which is missing: python -m pip install -e '.[book]'", file=sys.stderr)
    return 2


def _run(options: argparse.Namespace, known: Mapping[str, Parameter]) -> int:
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import DeadKernelError

    given = (parameter_file(options.file) if options.file else {}) | dict(options.parameter)
    refuse_unknown(given, known)
    values = report.absolute({name: known[name].check(known[name].read(value)) for name, value in given.items()})
    chapter = training_part(options.chapter) if options.training else options.chapter
    stem = f"{options.chapter.stem}-{options.file.stem}" if options.file else options.chapter.stem
    output = options.output or root() / "_build" / "runs" / f"{stem}.ipynb"
    _refuse_unwritable(output)
    # It calls parameters with a list of choices unknown, for it cannot read their annotation; they were checked above.
    logging.getLogger("papermill").addFilter(lambda record: "Passed unknown parameter" not in record.getMessage())
    name, start = options.chapter.name, time.perf_counter()
    told: dict[str, Any] = {"extra_arguments": ["--log-level=ERROR"]}  # of the kernel
    if options.command == "report":
        import nbformat

        told |= {"on_cell_start": report.progress(report.headings(nbformat.read(chapter, 4))), "progress_bar": False}
    try:
        papermill.execute_notebook(chapter, output, values, kernel_name="python3", cwd=options.chapter.parent, **told)
    except NoSuchKernel as error:
        problem = no_kernel(error.name)
    except DeadKernelError:
        problem = f"{name} lost its kernel, mostly a sign that memory ran out: take less, such as a smaller batch_size."
    except papermill.PapermillExecutionError as error:
        said = " ".join(f"{error.ename}: {error.evalue}".split()).rstrip(".")
        problem = f"{name} failed in cell {error.exec_count}: {said}. What was run so far is in {output}."
    else:
        print(f"{name} ran in {time.perf_counter() - start:.0f} s; the notebook is {output}.")
        return 0
    print(problem, file=sys.stderr)
    return 1


def _report(options: argparse.Namespace) -> int:
    given = report.asked(options.adata, {name: getattr(options, name) for name in report.COLUMNS})
    output = (options.output or Path("report.html")).resolve()
    _refuse_unwritable(output)
    options.chapter, options.file, options.training = report.chapter(), None, False
    options.parameter = [*given.items(), *options.parameter]
    options.output = root() / "_build" / "runs" / f"{output.stem}.ipynb"
    status = _run(options, declared(options.chapter))
    if status and not output.stat().st_size:
        output.unlink()  # made to see that it can be written
    if not status:
        print(f"The report is {report.write(options.output, output)}.")
    return status


def _refuse_unwritable(output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.open("a").close()
    except OSError as error:
        raise ParameterError(
            f"The output cannot be written to {output} ({error.strerror}): name a file with -o, such as mine.ipynb."
        ) from None


if __name__ == "__main__":
    sys.exit(main())
