"""Checks of arguments, and parts of their messages."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from math import inf, isfinite
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch


def choose(what: str, value: Any, options: dict[str, Any] | tuple[Any, ...]) -> Any:
    """The option of that name.

    Parameters
    ----------
    what
        Name of the argument.
    value
        What was given for it.
    options
        What exists: a tuple of values, or values by name.

    Returns
    -------
    Any
        The value of that name, or `value` itself where options are a tuple.

    Raises
    ------
    ValueError
        That lists what exists.
    """
    require(value in options, f"{what} is {value!r}; choose one of {sorted(options, key=str)}.")
    return options[value] if isinstance(options, dict) else value


def above(low: float, below: float = inf, /, **values: float | None) -> None:
    """Check that values lie strictly between two limits; None lies there.

    Parameters
    ----------
    low, below
        The limits. By default there is no upper one.
    values
        Arguments by name.

    Raises
    ------
    ValueError
        That names the first value that does not.
    """
    for name, value in values.items():
        range = f"above {low:g}" if below == inf else f"strictly between {low:g} and {below:g}"
        require(value is None or low < value < below, f"{name} is {value}; it must be {range}.")


def at_least(low: float, /, **values: float) -> None:
    """Check that values are not below a limit.

    Parameters
    ----------
    low
        The limit.
    values
        Arguments by name.

    Raises
    ------
    ValueError
        That names the first value that is below.
    """
    for name, value in values.items():
        require(value >= low, f"{name} is {value}; it must be {low:g} or above.")


def share(**values: float) -> None:
    """Check that values lie between 0 and 1, both allowed.

    Parameters
    ----------
    values
        Arguments by name.

    Raises
    ------
    ValueError
        That names the first value that does not.
    """
    for name, value in values.items():
        require(0 <= value <= 1, f"{name} is {value}; it must be between 0 and 1.")


def whole(name: str, value: Any, low: float = -inf) -> int:
    """A whole number, from an int, a NumPy scalar or a float such as 1e3.

    Parameters
    ----------
    name
        Of the argument.
    value
        What was given for it.
    low
        The least that is allowed. By default there is no limit.

    Returns
    -------
    int
        The number.

    Raises
    ------
    ValueError
        That names the argument, so that None or 2.5 does not fail far from where it was given.
    """
    found = number(name, value, low)
    require(found == int(found), f"{name} is {value}; it must be a whole number.")
    return int(found)


def number(name: str, value: Any, low: float = -inf) -> float:
    """A finite number, from any scalar.

    Parameters
    ----------
    name
        Of the argument.
    value
        What was given for it.
    low
        The least that is allowed. By default there is no limit.

    Returns
    -------
    float
        The number; an int stays one.

    Raises
    ------
    ValueError
        That names the argument, for anything else.
    """
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    finite = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    require(finite, f"{name} is {value!r}; it must be a finite number.")
    at_least(low, **{name: value})
    return value if isinstance(value, int) else float(value)


def left_out(why: str, /, **values: Any) -> None:
    """Check that arguments that would change nothing are None.

    Parameters
    ----------
    why
        Why they would change nothing, for the message.
    values
        Arguments by name.

    Raises
    ------
    ValueError
        That names the first value that is not None.
    """
    for name, value in values.items():
        require(value is None, f"{name} is {value!r}, but {why}; leave {name} out.")


def choose_device(name: str) -> torch.device:
    """The device of that name.

    Parameters
    ----------
    name
        Such as "cpu" or "cuda:1"; "auto" is the first CUDA GPU if there is one, else the CPU.

    Returns
    -------
    device
        The device of PyTorch.

    Raises
    ------
    ValueError
        For a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"Device {name!r} cannot be used here; take 'cpu' or 'auto'.") from error
    return torch.device(name)


class DataError(ValueError):
    """The input cannot be modelled as it is; the message says what to change."""


def count_cells(count: int) -> str:
    """A number of cells in words: "1 cell", "2 cells".

    Parameters
    ----------
    count
        The number.

    Returns
    -------
    str
        Text for a message.
    """
    return "1 cell" if count == 1 else f"{count} cells"


def quoted(names: Sequence[Any], most: int = 6) -> str:
    """A few names in quotes, for a message.

    Parameters
    ----------
    names
        The names.
    most
        How many are written out; the others are counted.

    Returns
    -------
    str
        Such as "'A', 'B' and 3 more".
    """
    rest = len(names) - most
    return ", ".join(repr(str(n)) for n in names[:most]) + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A hint for a misspelt name.

    Parameters
    ----------
    name
        What was given.
    known
        The names that exist.

    Returns
    -------
    str
        "; did you mean ...?" with the known name that looks most like `name`, or an empty text.
    """
    spelt = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(name).lower(), list(spelt), n=1, cutoff=0.5)
    close += [k for k in spelt if k.startswith(str(name).lower()) or str(name).lower().startswith(k)]
    return f"; did you mean {spelt[close[0]]!r}?" if name and close else ""


def in_order(values: Any, names: Sequence[str] | np.ndarray, of: str) -> np.ndarray:
    """Values, one for each name, as an array.

    Parameters
    ----------
    values
        An array or list in the order of the names, or a Series, which goes by its index unless that is 0, 1, 2, ...
    names
        Of all cells or genes.
    of
        What they are, for messages: "cells" or "genes".

    Returns
    -------
    ndarray
        The values in the order of the names.

    Raises
    ------
    DataError
        For an index that lacks a name, or has one twice: in another order the values would be those of other cells.
    """
    if not isinstance(values, pd.Series) or values.index.equals(pd.RangeIndex(len(names))):
        return np.asarray(values)
    index = values.index.astype(str)
    at = index.get_indexer(pd.Index(names)) if index.is_unique else np.full(len(names), -1)
    if (at < 0).any():
        what = f"lacks {names[int(at.argmin())]!r}" if index.is_unique else "has a name twice"
        remedy = f"index it by the names of the {of}, or give the values in their order, .to_numpy()"
        raise DataError(f"The index of a Series for {len(names)} {of} {what}; {remedy}.")
    return values.to_numpy()[at]


def require(valid: object, message: str) -> None:
    """Check a condition.

    Parameters
    ----------
    valid
        Whether it holds.
    message
        What to say if it does not.

    Raises
    ------
    ValueError
        With the message, unless it holds.
    """
    if not valid:
        raise ValueError(message)
