"""Checks of arguments."""

from __future__ import annotations

from math import inf, isfinite
from numbers import Real
from typing import Any

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


def require(valid: object, message: str, error: type[ValueError] = ValueError) -> None:
    """Check a condition.

    Parameters
    ----------
    valid
        Whether it holds.
    message
        What to say if it does not.
    error
        What is raised then, such as `DataError`.

    Raises
    ------
    ValueError
        With the message, unless it holds.
    """
    if not valid:
        raise error(message)
