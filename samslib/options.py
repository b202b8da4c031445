"""What a wrong option is told: one sentence that names the option, its value and what would do."""

from __future__ import annotations

from math import inf, isfinite
from numbers import Real
from typing import Any

import torch


def choose(what: str, value: Any, options: dict[str, Any] | tuple[Any, ...]) -> Any:
    """The option of that name. Raises ValueError that lists what exists."""
    if value not in options:
        raise ValueError(f"{what} is {value!r}; choose one of {sorted(options, key=str)}.")
    return options[value] if isinstance(options, dict) else value


def above(low: float, below: float = inf, /, **values: float) -> None:
    """Raises ValueError that names the first value that is not strictly between the two limits."""
    for name, value in values.items():
        if not low < value < below:
            range = f"above {low:g}" if below == inf else f"strictly between {low:g} and {below:g}"
            raise ValueError(f"{name} is {value}; it must be {range}.")


def at_least(low: float, /, **values: float) -> None:
    """Raises ValueError that names the first value that is below the limit."""
    for name, value in values.items():
        if not value >= low:
            raise ValueError(f"{name} is {value}; it must be {low:g} or above.")


def whole(name: str, value: Any, low: float = -inf) -> int:
    """A whole number of `low` or above, from an int, a NumPy scalar or a float such as 1e3. Raises ValueError that
    names the argument for anything else, so that None or 2.5 does not fail far from where it was given."""
    found = number(name, value)
    if found != int(found):
        raise ValueError(f"{name} is {value}; it must be a whole number.")
    if found < low:
        raise ValueError(f"{name} is {int(found)}; it must be {low:g} or above.")
    return int(found)


def number(name: str, value: Any) -> float:
    """A finite number, from any scalar. Raises ValueError that names the argument for anything else."""
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"{name} is {value!r}; it must be a finite number.")
    return float(value) if not isinstance(value, int) else value


def left_out(why: str, /, **values: Any) -> None:
    """Raises ValueError for the first value that is not None, which would change nothing, because of `why`."""
    for name, value in values.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r}, but {why}; leave {name} out.")


def choose_device(name: str) -> torch.device:
    """ "auto" is the first CUDA GPU if there is one, else the CPU. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"Device {name!r} cannot be used here; take 'cpu' or 'auto'.") from error
    return torch.device(name)
