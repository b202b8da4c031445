"""Choosing cells or genes: by position, mask, slice or name, and by their part of a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from samslib.data.messages import count_cells, did_you_mean, quoted
from samslib.validation import DataError


def positions(chosen: Any, names: Sequence[str] | np.ndarray, of: str) -> np.ndarray:
    """Positions of chosen cells or genes.

    Parameters
    ----------
    chosen
        Slice, mask or integers; a mask that is a Series goes by the names in its index.
    names
        Names of all cells or genes.
    of
        What they are, for messages: "cells" or "genes".

    Raises
    ------
    DataError
        For a mask of another length, and for values that are neither positions nor a mask.
    IndexError
        For positions out of range.
    """
    size = len(names)
    if isinstance(chosen, slice):
        return np.arange(size)[chosen]
    mask = isinstance(chosen, pd.Series) and pd.api.types.is_bool_dtype(chosen)
    at = np.atleast_1d(in_order(chosen, names, of) if mask else np.asarray(chosen))
    if at.dtype == bool and at.shape != (size,):
        raise DataError(f"The mask has {len(at)} values for {size} {of}; it needs one each.")
    if at.size and at.dtype.kind not in "biu" or at.ndim > 1:
        raise DataError(f"The {of} are chosen by positions, a mask or a slice, not by {at.dtype} values.")
    if at.dtype != bool and len(at) == size > 2 and at.min() >= 0 and at.max() <= 1:
        raise DataError(f"The {of} are given a 0 or 1 each, which would be positions; for a mask give values == 1.")
    return np.arange(size)[at.astype(int) if not at.size else at]


def gene_positions(chosen: Any, genes: tuple[str, ...]) -> np.ndarray:
    """Positions of chosen genes, each once and at least one.

    Parameters
    ----------
    chosen
        Names, or what `positions` takes.
    genes
        Names of all genes.

    Raises
    ------
    DataError
        For unknown genes, a gene twice, and where no gene is left.
    """
    given = np.atleast_1d(np.asarray(chosen))
    if given.dtype.kind in "UO" and all(isinstance(g, str) for g in given):
        index = pd.Index(genes)
        if unknown := [g for g in given if g not in index]:
            hint = did_you_mean(unknown[0], genes) or "."
            raise DataError(f"{len(unknown)} of the genes are not in the data ({quoted(unknown, 3)}){hint}")
        chosen = index.get_indexer(given)
    at = positions(chosen, genes, "genes")
    if not len(at):
        raise DataError("No gene is selected; the mask is False everywhere.")
    if len(set(at)) < len(at):
        raise DataError(f"{len(at) - len(set(at))} genes are selected more than once; select each once.")
    return at


def check_library(library: np.ndarray, genes: int, on_disk: bool) -> None:
    """A DataError unless all cells have counts on the selected genes.

    Parameters
    ----------
    library
        (n,) counts on these genes.
    genes
        How many were selected.
    on_disk
        Whether the counts are in a file, for the remedy.
    """
    if empty := int((library == 0).sum()):
        sums = "np.vstack([x[:, mask].sum(1) for _, x in data.x.blocks()])" if on_disk else "data.x[:, mask].sum(1)"
        remedy = f"keep more genes, or first data = data[np.asarray({sums}).ravel() > 0]"
        raise DataError(f"{count_cells(empty)} have no counts on the {genes} selected genes; {remedy}")


def check_split(part: np.ndarray, cells: int) -> np.ndarray:
    """The labels of a split, if they make one.

    Parameters
    ----------
    part
        (n,) "train", "val", "test" or "" (left out) of each cell.
    cells
        n.

    Raises
    ------
    DataError
        For another label, a part of fewer than two cells, or labels that are not one a cell.
    """
    if part.shape != (cells,):
        remedy = "it needs one each, or a splitter such as samslib.splits.random()"
        raise DataError(f"The split has {len(part)} labels for {count_cells(cells)}; {remedy}.")
    if unknown := sorted(set(part.tolist()) - {"train", "val", "test", ""}, key=str):
        raise DataError(
            f'The split has labels {quoted(unknown)}; they must be "train", "val", "test" or "" (left out).'
        )
    for name in ("train", "val", "test"):
        if (size := int((part == name).sum())) < 2:
            raise DataError(
                f"The {name} split has {count_cells(size)}; at least 2 are needed: change the shares or add cells."
            )
    return part


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
