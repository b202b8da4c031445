"""What the cells themselves say of each perturbation: data effects, their sampling error, replicates and halves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib.data import DataError, PerturbationData, check_split
from samslib.disk import OnDisk
from samslib.effects import choose_readout, effect_table
from samslib.splits import Splitter


class Moments(NamedTuple):
    """mean and sample variance (conditions, G) of g(x) over the cells of a condition, and their number (conditions,);
    the control first."""

    mean: np.ndarray
    variance: np.ndarray
    size: np.ndarray


def reference_cells(
    data: PerturbationData,
    reference: str = "all",
    split: Splitter | np.ndarray | None = None,
    controls: str = "same",
) -> PerturbationData:
    """The cells that effects are taken from: the perturbed ones of `reference` and the control ones of `controls`.

    reference: "all", the official choice, which also holds cells that trained a model; or "train", "val" or "test", a
    part of `split` (a splitter of `samslib.splits`, or its words). controls: "same" part, or another by name.
    Raises DataError for an unknown part, a part without a split or a split without a part, or a part without control
    or perturbed cells.
    """
    parts = ("all", "train", "val", "test")
    controls = reference if controls == "same" else controls
    for name, part in (("reference", reference), ("controls", controls)):
        if part not in parts:
            raise DataError(f"{name} is {part!r}; choose one of {parts}.")
        if part != "all" and split is None:
            raise DataError(f"{name} is {part!r}, a part of a split; give the split too.")
    if split is not None and reference == controls == "all":
        raise DataError("A split is given, but reference='all' is no part of it; name a part, or leave the split out.")
    word = None if split is None else check_split(np.asarray(split(data) if callable(split) else split), len(data))
    inside = {part: np.ones(len(data), bool) if part == "all" else word == part for part in (reference, controls)}
    untreated = data.guides == 0
    kept = np.where(untreated, inside[controls], inside[reference])
    if not (kept & untreated).any():
        remedy = "choose controls='val' or 'all'" if data.control is not None else "effects need a control label"
        raise DataError(f"There are no control cells ({controls}) to compare with; {remedy}.")
    if not (kept & ~untreated).any():
        raise DataError(f"There are no perturbed cells ({reference}); choose another reference.")
    return data[kept]


def data_effects(
    data: PerturbationData,
    readout: str = "perturbseq",
    reference: str = "all",
    split: Splitter | np.ndarray | None = None,
    controls: str = "same",
) -> anndata.AnnData:
    """Average treatment effect of each condition against control, from cells: the difference of the means of g(x).

    With "all" cells these are the official reference values, also where a model was trained on the same cells; see
    `reference_cells` for the others. Conditions are canonical names.

    Returns AnnData, perturbations x genes, in the form of `average_effects`: X the effect; layers "standard_error",
    sqrt(s_t^2 / n_t + s_c^2 / n_c) with sample variances over cells, and "variance", s_t^2 (both not a number where a
    condition has one cell); obs "cells"; var "control" and "control_variance"; uns["samslib"] the settings. Raises
    DataError for cells without counts, besides what `reference_cells` raises; ValueError for an unknown readout.
    """
    cells = reference_cells(data, reference, split, controls)
    names, code = conditions(cells)
    mean, variance, size = _Cells(cells, readout).moments(np.arange(len(cells)))
    with np.errstate(divide="ignore"):
        error = np.sqrt(variance[1:] / size[1:, None] + variance[0] / size[0])
    part = {"readout": readout, "reference": reference, "controls": reference if controls == "same" else controls}
    table = effect_table(
        cells,
        names[1:],
        mean[1:] - mean[0],
        {"standard_error": error, "variance": variance[1:]},
        (mean[0], variance[0]),
        part | {"control_cells": int(size[0]), "median_library": float(np.median(cells.library))},
    )
    table.obs["cells"] = size[1:]
    return table


def readouts(data: PerturbationData, readout: str = "perturbseq") -> Any:
    """(n, G) g(x) of every cell, sparse where the data are. Raises DataError for cells on disk or without counts."""
    choose_readout(readout, data)
    if isinstance(data.x, OnDisk):
        raise DataError("The readouts of all cells are held in memory; choose cells, and read them with to_memory().")
    if readout == "mean":
        return data.x.astype(np.float64)
    total = np.asarray(data.x.sum(1), dtype=np.float64).ravel()
    if empty := int((total == 0).sum()):
        raise DataError(f"{empty} of {len(data)} cells have no counts, so they have no readout; drop them first.")
    g = sp.csr_matrix(data.x, dtype=np.float64, copy=True)
    g.data = np.log2(1 + 1e4 * g.data / np.repeat(total, np.diff(g.indptr)))
    return g


def conditions(data: PerturbationData) -> tuple[list[str], np.ndarray]:
    """Names of the conditions, the control first and then in order, and (n,) the position of each cell's."""
    treated = data.guides > 0
    names = sorted(set(data.labels[treated]))
    code = np.zeros(len(data), dtype=int)
    code[treated] = 1 + pd.Index(names).get_indexer(data.labels[treated])
    return [str(data.control), *names], code


def replicates(data: PerturbationData, readout: str, resamples: int, seed: int = 0) -> Iterator[Moments]:
    """Moments in bootstrap resamples: as many cells of each condition, drawn from it with replacement. A resample is
    one product with a sparse matrix of multinomial weights; no cell is copied."""
    cells = _Cells(data, readout)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield cells.moments(cells.order[cells.start[cells.code] + rng.integers(0, cells.size[cells.code])])


def halves(data: PerturbationData, readout: str, repeats: int, seed: int = 0) -> Iterator[tuple[Moments, Moments]]:
    """Moments in two random halves of every condition's cells, `repeats` times; those of a condition of one cell are
    not a number in the second half."""
    cells = _Cells(data, readout)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        order = np.lexsort((rng.random(len(data)), cells.code))
        odd = (np.arange(len(data)) - cells.start[cells.code[order]]) % 2 == 1
        yield cells.moments(order[~odd]), cells.moments(order[odd])


class _Cells:
    """g(x) of cells and its square, sparse where the data are, with the condition of each cell."""

    def __init__(self, data: PerturbationData, readout: str):
        self.g: Any = readouts(data, readout)
        self.squared = self.g.multiply(self.g) if sp.issparse(self.g) else self.g**2
        _, self.code = conditions(data)
        self.size = np.bincount(self.code)
        self.start = np.concatenate([[0], np.cumsum(self.size)[:-1]])
        self.order = np.argsort(self.code, kind="stable")

    def moments(self, chosen: np.ndarray) -> Moments:
        """Moments by condition of the chosen cells, each counted as often as it is named."""
        code = self.code[chosen]
        size = np.bincount(code, minlength=len(self.size))
        with np.errstate(invalid="ignore", divide="ignore"):
            weights = sp.csr_matrix((1.0 / size[code], (code, chosen)), (len(size), len(self.code)))
            mean, square = (_dense(weights @ values) for values in (self.g, self.squared))
            mean[size == 0] = np.nan
            variance = (square - mean**2).clip(min=0) * (size / (size - 1.0))[:, None]
        variance[size == 1] = np.nan
        return Moments(mean, variance, size)


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
