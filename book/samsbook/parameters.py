"""What chapters share: checked parameters, results of long runs with provenance, library code in place."""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import re
import tokenize
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Optional, Union, get_args, get_origin

Bounds = tuple[float | None, float | None]


class ParameterError(ValueError):
    """A chapter was given a parameter that it does not have, or a value of the wrong kind."""


@dataclass(frozen=True)
class Parameter:
    """One line of a chapter's `parameters` cell: `name: annotation = default  # help`."""

    name: str
    annotation: Any
    default: Any
    help: str

    def read(self, text: Any) -> Any:
        """A value from a shell or a YAML file as the declared type reads it, so that "1e-3" is a number, and so are
        the two of "0.1 1e-3" where a list of numbers is declared."""
        if item := _item(self.annotation):
            words = re.split(r"[\s,]+", text.strip("[] ")) if isinstance(text, str) else text
            words = words if isinstance(words, list) else [words]
            return [Parameter(self.name, item, None, "").read(word) for word in words if word != ""]
        if not isinstance(text, str) or any(
            kind is str or get_origin(kind) is Literal for kind in _choices(self.annotation)
        ):
            return text
        with suppress(ValueError, SyntaxError):
            return ast.literal_eval(text)
        return {"true": True, "false": False, "null": None}.get(text.lower(), text)

    def check(self, value: Any, bounds: Bounds = (None, None)) -> Any:
        """The value (a float if one is declared and an int given), or, of a list, the values, which may still be
        text. `bounds` are of a number, or of each in the list. Raises ParameterError with the remedy."""
        item = _item(self.annotation)
        values = self.read(value) if item else [value]  # papermill's own command line leaves "0.1 1e-3" a text
        for one in values:
            if not _fits(one, item or self.annotation):
                raise ParameterError(
                    f"Parameter {self.name!r} must be {spoken(self.annotation)}, but {'one of them' if item else 'it'} "
                    f"is {one!r} ({type(one).__name__})."
                )
        if item:
            return [Parameter(f"{self.name}[{i}]", item, None, "").check(one, bounds) for i, one in enumerate(values)]
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError(f"Parameter {self.name!r} must be a finite number, but it is {value!r}.")
        low, high = bounds
        if isinstance(value, int | float) and not ((low is None or value >= low) and (high is None or value <= high)):
            limits = " and ".join(
                f"{word} {limit:g}" for word, limit in (("at least", low), ("at most", high)) if limit is not None
            )
            raise ParameterError(f"Parameter {self.name!r} must be {limits}, but it is {value!r}.")
        return float(value) if float in _choices(self.annotation) and type(value) is int else value


def check_parameters(namespace: dict[str, Any], **bounds: Bounds) -> dict[str, Any]:
    """Check what a run gave the cell tagged `parameters`: in the next cell, `check_parameters(globals())`.

    The cell declares annotated scalars (`steps: int = 300`), with `Literal["a", "b"]` for a choice, and lists of
    numbers (`list[float]`), for which text such as "0.1 0.01" is read. papermill sets parameters in a cell of its
    own after that one and only warns of names that it does not know; here they are errors.

    Parameters
    ----------
    namespace
        The notebook's variables; checked values are put back into it.
    **bounds
        Least and greatest value of a number, or of each in a list, as in `steps=(1, None)`.

    Returns
    -------
    dict
        The parameters in the order declared.

    Raises
    ------
    ParameterError
        For an unknown name (the message has the nearest known one), a value of the wrong type (a whole number
        is a float, a bool is not a number), and a number that is not finite or out of bounds.
    """
    # The pages' own runs are short on purpose, and show their curves.
    warnings.filterwarnings(
        "ignore", "Perhaps not trained to its end|Worse than the mean|ControlMean ignores", UserWarning
    )
    annotations = {
        name: _evaluated(kind) for name, kind in namespace.get("__annotations__", {}).items() if name in namespace
    }
    if not annotations:
        raise ParameterError(
            "No parameter (such as `steps: int = 300`) is defined: run the cell tagged 'parameters' first."
        )
    for cell in namespace.get("In", []):
        if cell.lstrip().startswith("# Parameters"):  # the first line of the cell that papermill writes
            refuse_unknown(_assigned(cell), annotations)
    refuse_unknown(bounds, annotations)
    checked = {
        name: Parameter(name, kind, None, "").check(namespace[name], bounds.get(name, (None, None)))
        for name, kind in annotations.items()
    }
    namespace.update(checked)
    return checked


def refuse_unknown(names: Iterable[str], known: Mapping[str, Any]) -> None:
    """Refuse names that are not known.

    Parameters
    ----------
    names
        Names that were given.
    known
        What there is, by name.

    Raises
    ------
    ParameterError
        For the first unknown name, with the nearest known one.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the chapter has {', '.join(known)}."
            raise ParameterError(f"There is no parameter {name!r}: {hint}")


def _assigned(cell: str) -> list[str]:
    return [
        t.id for s in ast.parse(cell).body if isinstance(s, ast.Assign) for t in s.targets if isinstance(t, ast.Name)
    ]


def _evaluated(annotation: Any) -> Any:
    """An annotation written as text, as the type it names."""
    if not isinstance(annotation, str):
        return annotation
    names = {"Literal": Literal, "Optional": Optional, "Union": Union}
    try:
        return eval(annotation, names)  # the chapter's own source, which is about to run anyway
    except Exception as error:
        raise ParameterError(
            f"Annotation {annotation!r} is not understood: use int, float, str, bool, list[int] or Literal[...]."
        ) from error


def _item(annotation: Any) -> Any:
    """The type of the numbers in a list that is declared as one; else None."""
    return get_args(annotation)[0] if get_origin(annotation) is list else None


def _choices(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _fits(value: Any, annotation: Any) -> bool:
    for kind in _choices(annotation):
        if get_origin(kind) is Literal:
            if any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
                return True
        elif kind is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return True
        elif kind is None or kind is NoneType:
            if value is None:
                return True
        elif type(value) is (get_origin(kind) or kind):
            return True
    return False


def spoken(annotation: Any) -> str:
    """A type in words: "a whole number", "'mean_field' or 'correlated'"."""
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None"}
    words |= {list[int]: "whole numbers with spaces between them", list[float]: "numbers with spaces between them"}
    parts = []
    for kind in _choices(annotation):
        if get_origin(kind) is Literal:
            parts += [repr(choice) for choice in get_args(kind)]
        else:
            parts.append(words.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(parts)


def declared(chapter: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook declares, without running it.

    Parameters
    ----------
    chapter
        Path of the notebook.

    Returns
    -------
    dict
        `Parameter` by name, in order.

    Raises
    ------
    ParameterError
        If the file is not a notebook, if not exactly one of its cells is tagged `parameters`, or if that cell
        holds anything but annotated scalars and lists.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(chapter)
    if not path.is_file():
        raise FileNotFoundError(f"There is no notebook {str(chapter)!r}: name one such as chapters/02_inference.ipynb.")
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise ParameterError(f"{chapter} is not a notebook: name one such as chapters/02_inference.ipynb.") from None
    sources = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", [])]
    if len(sources) != 1:
        raise ParameterError(f"{path.name} has {len(sources)} cells tagged 'parameters': give it exactly one.")
    tokens = tokenize.generate_tokens(io.StringIO(sources[0]).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    found = {}
    for line in ast.parse(sources[0]).body:
        if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value):
            raise ParameterError(
                f"Line {line.lineno} of the parameters of {path.name} must read like `steps: int = 300`."
            )
        name, kind = line.target.id, _evaluated(ast.unparse(line.annotation))
        found[name] = Parameter(name, kind, ast.literal_eval(line.value), comments.get(line.end_lineno or 0, ""))
    return found


def parameter_file(path: Path) -> dict[str, Any]:
    """What the lines `name: value` of a YAML file say.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    dict
        Values by name.

    Raises
    ------
    ParameterError
        For a file that is not of this form; the message has the file, and the line if there is one.
    FileNotFoundError
        If there is no such file.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"There is no parameter file {str(path)!r}: look in book/runs/ for those that exist.")
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        begun, mark = error.context_mark, error.problem_mark
        # A quote or bracket that is never closed is missed at the end of the file, but stands where it was opened.
        if begun and (isinstance(error, yaml.scanner.ScannerError) or not mark or mark.index >= len(text.rstrip())):
            mark = begun
        where = f"{path}, line {mark.line + 1}," if mark else f"{path}"
        raise ParameterError(
            f"{where} is not YAML ({error.problem}): write `name: value`, with a value that has quotes, colons or "
            "brackets in it between quotes."
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise ParameterError(f"{path} is not a text file in UTF-8: write lines of `name: value`.") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{path} must hold lines of `name: value`.")
    return values


def no_kernel(name: str) -> str:
    """What to do if Jupyter has no kernel of this name."""
    return f"Jupyter has no kernel {name!r} to run chapters in: `python -m pip install ipykernel` gives it one."


def training_part(chapter: str | Path) -> Any:
    """The part of a notebook that one run of the grid needs, without pictures and prose.

    Parameters
    ----------
    chapter
        Path of the notebook.

    Returns
    -------
    NotebookNode
        The cells tagged `parameters` or `training`, in order.

    Raises
    ------
    ParameterError
        For a chapter without a cell tagged `training`, and as `declared` does.
    """
    import nbformat

    declared(chapter)
    whole = nbformat.read(chapter, as_version=4)
    whole.cells = [c for c in whole.cells if {"parameters", "training"} & set(c.metadata.get("tags", []))]
    if len(whole.cells) < 2:
        raise ParameterError(
            f"{Path(chapter).name} has no cell tagged 'training': tag those that train and write results."
        )
    return whole
