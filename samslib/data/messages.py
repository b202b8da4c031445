"""What messages say of cells and of names: counted, quoted, and the one that was perhaps meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
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
