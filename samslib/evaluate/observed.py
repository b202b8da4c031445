"""What the cells themselves say of each perturbation: data effects, their sampling error, replicates and halves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.stats import hypergeom

from samslib.data.container import PerturbationData, check_data, split_labels
from samslib.data.disk import OnDisk
from samslib.data.messages import did_you_mean
from samslib.data.splits import Splitter
from samslib.evaluate.tables import choose_readout, effect_table
from samslib.validation import DataError


class Moments(NamedTuple):
    """Mean and variance of g(x) over the cells of each condition, the control first.

    Within levels of covariates, a condition's mean is the control's plus the effect: see `data_effects`.

    Parameters
    ----------
    mean
        (conditions, G) means of g(x).
    variance
        (conditions, G) sample variances of g(x) between cells.
    size
        (conditions,) numbers of cells.
    """

    mean: np.ndarray
    variance: np.ndarray
    size: np.ndarray


def reference_cells(
    data: PerturbationData,
    reference: str = "all cells",
    split: Splitter | np.ndarray | None = None,
    controls: str = "same",
) -> PerturbationData:
    """The cells that effects are taken from: the perturbed ones of `reference` and the control ones of `controls`.

    Parameters
    ----------
    data
        All cells.
    reference
        "all cells", as published, which also holds cells that trained a model; or "train", "val" or "test", a part of
        `split`.
    split
        A splitter of `samslib.splits`, or the part of each cell. None: no split, for "all cells" only.
    controls
        The part of the control cells: "same" as `reference`, or another by name.

    Returns
    -------
    PerturbationData
        The chosen cells, in the order of the data.

    Raises
    ------
    DataError
        For an unknown part, a part without a split or a split without a part, or a part without control or perturbed
        cells.
    """
    check_data(data, "reference_cells")
    parts = ("all cells", "train", "val", "test")
    controls = reference if controls == "same" else controls
    for name, part in (("reference", reference), ("controls", controls)):
        if part not in parts:
            raise DataError(f"{name} is {part!r}; choose one of {parts}.")
        if part != "all cells" and split is None:
            raise DataError(f"{name} is {part!r}, a part of a split; give the split too.")
    if split is not None and reference == controls == "all cells":
        raise DataError("A split is given, but reference='all cells' is no part of it; name a part, or give no split.")
    word = None if split is None else split_labels(data, split)
    inside = {part: np.ones(len(data), bool) if part == "all cells" else word == part for part in (reference, controls)}
    untreated = data.n_perturbations == 0
    kept = np.where(untreated, inside[controls], inside[reference])
    if not (kept & untreated).any():
        remedy = "choose controls='val' or 'all cells'" if data.control is not None else "effects need a control label"
        raise DataError(f"There are no control cells ({controls}) to compare with; {remedy}.")
    if not (kept & ~untreated).any():
        raise DataError(f"There are no perturbed cells ({reference}); choose another reference.")
    return data[kept]


def data_effects(
    data: PerturbationData,
    readout: str = "perturbseq",
    reference: str = "all cells",
    split: Splitter | np.ndarray | None = None,
    controls: str = "same",
    within: str | Sequence[str] = (),
) -> anndata.AnnData:
    """Average treatment effect of each condition against control, from cells: the difference of the means of g(x).

    With "all cells" these are the official reference values, also where a model was trained on the same cells; see
    `reference_cells` for the others. Conditions are canonical names.

    Parameters
    ----------
    data
        All cells.
    readout
        The function g of expression; a name of `READOUTS`.
    reference, split, controls
        Which cells count, as in `reference_cells`; by default all.
    within
        Covariates of the data, such as "line". Cells are then compared with the controls of their own level (or
        combination of levels), and the differences averaged with the shares of the condition's cells in each level as
        weights. Without, a perturbation that was given more often in one line is charged with the difference between
        lines, so that a warning names the covariates in whose levels the shares of a condition's cells differ from its
        controls' (exact tests, false in at most 1 of 1,000 data sets without such differences).

    Returns
    -------
    AnnData
        Perturbations x genes, in the form of `average_effects`: X the effect; layers "standard_error",
        sqrt(s_t^2 / n_t + s_c^2 / n_c) with sample variances over cells, and "variance", s_t^2 (both not a number where
        a condition has one cell); obs "cells"; var "control" and "control_variance"; uns["samslib"] the settings.
        Within levels, the variances of the standard error are those within levels, and 1 / n_c is the sum over
        levels of the squared weight over the number of controls.

    Raises
    ------
    DataError
        For cells without counts, for a covariate that the data lack, and for a level with perturbed cells but no
        control, besides what `reference_cells` raises.
    ValueError
        For an unknown readout.
    """
    cells = reference_cells(data, reference, split, controls)
    names, _ = conditions(cells)
    within = (within,) if isinstance(within, str) else tuple(within)
    _warn_of_confounding(cells, within)
    of = _Cells(cells, readout, within)
    mean, variance, size = of.moments(np.arange(len(cells)))
    error = of.standard_error()
    part = {"readout": readout, "reference": reference, "controls": reference if controls == "same" else controls}
    part |= {"within": ", ".join(within)}
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
    """The readout g(x) of every cell.

    Parameters
    ----------
    data
        Cells in memory.
    readout
        A name of `READOUTS`: "perturbseq" is log2(1 + 10,000 x / sum of x), "mean" is x.

    Returns
    -------
    ndarray or csr_matrix
        (n, G), sparse where the data are.

    Raises
    ------
    DataError
        For cells on disk or without counts.
    ValueError
        For an unknown readout, or "perturbseq" of real values.
    """
    choose_readout(readout, check_data(data, "readouts"))
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
    """The conditions of the data, the control first.

    Parameters
    ----------
    data
        The cells.

    Returns
    -------
    tuple
        Names of the conditions, the control and then the others in alphabetical order; and (n,) the position of each
        cell's condition among them.
    """
    treated = data.n_perturbations > 0
    names = sorted(set(data.labels[treated]))
    code = np.zeros(len(data), dtype=int)
    code[treated] = 1 + pd.Index(names).get_indexer(data.labels[treated])
    return [str(data.control), *names], code


def strata(data: PerturbationData, within: Sequence[str]) -> np.ndarray:
    """The combination of covariate levels of each cell, such as "line=K562, batch=1".

    Parameters
    ----------
    data
        The cells.
    within
        Names of covariates. None named: every cell has the same empty text.

    Returns
    -------
    ndarray
        (n,) texts.

    Raises
    ------
    DataError
        For a covariate that the data lack.
    """
    levels = np.array(data.covariates, dtype=object)
    known = sorted({level.split("=")[0] for level in levels})
    parts = []
    for name in within:
        if name not in known:
            hint = did_you_mean(name, known) or f"; its covariates are {', '.join(known) or 'none'}"
            raise DataError(f"The data have no covariate {name!r}{hint}; name it in from_anndata(covariates=).")
        of = [level.split("=")[0] == name for level in levels]
        parts.append(levels[of][data.covariate[:, of].argmax(1)])
    return np.array(
        [", ".join(kinds) for kinds in zip(*parts, strict=True)] if parts else [""] * len(data), dtype=object
    )


def _warn_of_confounding(data: PerturbationData, within: Sequence[str]) -> None:
    """Names covariates, beside those compared within, whose levels are shared out differently among the cells of some
    condition and among controls: an exact test of each level's cells, times the numbers of levels and conditions."""
    names, code = conditions(data)
    found = []
    for name in sorted({level.split("=")[0] for level in data.covariates} - set(within)):
        level = pd.factorize(strata(data, [name]))[0]
        table = np.zeros((len(names), level.max() + 1), dtype=int)
        np.add.at(table, (code, level), 1)
        both, seen = table[0] + table[1:], table[1:]  # (conditions, levels), of cells with controls and without
        law = hypergeom(both.sum(1, keepdims=True), both, seen.sum(1, keepdims=True))
        p = np.minimum(1, 2 * np.minimum(law.cdf(seen), law.sf(seen - 1))).min(1) * table.shape[1]
        if (p * len(p)).min() < 1e-3:
            found.append((name, names[1 + int(p.argmin())]))
    if found:
        what = " and ".join(f"{name!r} (most for {condition!r})" for name, condition in found)
        text = f"Controls and perturbed cells differ in {what}, and so does their difference; compare cells within "
        warnings.warn(f"{text}levels, with within={[*within, *(name for name, _ in found)]}.", stacklevel=3)


def replicates(
    data: PerturbationData, readout: str, resamples: int, within: Sequence[str] = (), *, seed: int = 0
) -> Iterator[Moments]:
    """Moments in bootstrap resamples: as many cells of each condition (and level), drawn from it with replacement.

    A resample is one product with a sparse matrix of multinomial weights; no cell is copied.

    Parameters
    ----------
    data
        The cells, in memory.
    readout
        The function g of expression; a name of `READOUTS`.
    resamples
        Number of bootstrap resamples.
    within
        Covariates within whose levels cells are drawn and effects taken, as in `data_effects`; by default none.
    seed
        Seed of the resamples.

    Returns
    -------
    Iterator
        The `Moments` of each resample.
    """
    cells = _Cells(data, readout, within)
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield cells.moments(cells.order[cells.start[cells.group] + rng.integers(0, cells.size[cells.group])])


def halves(
    data: PerturbationData, readout: str, repeats: int, within: Sequence[str] = (), *, seed: int = 0
) -> Iterator[tuple[Moments, Moments]]:
    """Moments in two random halves of the cells of every condition (and level).

    Parameters
    ----------
    data
        The cells, in memory.
    readout
        The function g of expression; a name of `READOUTS`.
    repeats
        Number of random splits into halves.
    within
        Covariates within whose levels cells are halved and effects taken, as in `data_effects`; by default none.
    seed
        Seed of the splits.

    Returns
    -------
    Iterator
        A pair of `Moments` for each repeat; those of a condition of one cell are not a number in the second half.
    """
    cells = _Cells(data, readout, within)
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        order = np.lexsort((rng.random(len(data)), cells.group))
        odd = (np.arange(len(data)) - cells.start[cells.group[order]]) % 2 == 1
        yield cells.moments(order[~odd]), cells.moments(order[odd])


class _Cells:
    """g(x) of cells and its square, sparse where the data are, in groups: of one condition and one level of what is
    compared within."""

    def __init__(self, data: PerturbationData, readout: str, within: Sequence[str] = ()):
        self.g: Any = readouts(data, readout)
        self.squared = self.g.multiply(self.g) if sp.issparse(self.g) else self.g**2
        names, code = conditions(data)
        level, levels = pd.factorize(strata(data, within), sort=True)
        kinds, self.group = np.unique(code * len(levels) + level, return_inverse=True)
        self.condition, self.level = kinds // len(levels), kinds % len(levels)  # of each group
        self.size = np.bincount(self.group)
        self.start = np.concatenate([[0], np.cumsum(self.size)[:-1]])
        self.order = np.argsort(self.group, kind="stable")
        of_controls = self.level[self.condition == 0]  # the controls' groups come first, one a level
        self.control = np.searchsorted(of_controls, self.level).clip(max=max(len(of_controls) - 1, 0))
        if len(of_controls) and (lone := of_controls[self.control] != self.level).any():
            what, n = levels[self.level[lone][0]], int(self.size[self.level == self.level[lone][0]].sum())
            remedy = "leave them out, or do not compare within it"
            raise DataError(f"The {n} perturbed cells of {what} have no control cells to compare with; {remedy}.")
        self.count = len(names)

    def moments(self, chosen: np.ndarray) -> Moments:
        """Moments by condition of the chosen cells, each counted as often as it is named."""
        size, mean, square = self._sums(chosen)
        total = np.bincount(self.condition, size, self.count)
        with np.errstate(invalid="ignore", divide="ignore"):
            weight = size / total[self.condition]
            average, second = (self._by_condition(weight, values) for values in (mean, square))
            average[total == 0] = np.nan
            variance = (second - average**2).clip(min=0) * (total / (total - 1.0))[:, None]
            variance[total == 1] = np.nan
            if (self.level != 0).any():  # each condition's mean as if its controls were spread over levels as it is
                average += average[0] - self._by_condition(weight, mean[self.control])
        return Moments(average, variance, total)

    def standard_error(self) -> np.ndarray:
        """(conditions but the control, G): see `data_effects`."""
        size, mean, square = self._sums(np.arange(len(self.group)))
        total = np.bincount(self.condition, size, self.count)
        levels = np.bincount(self.condition, size > 0, self.count)
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = self._by_condition(size, (square - mean**2).clip(min=0)) / (total - levels)[:, None]
            inside[total == levels] = np.nan
            weight = size / total[self.condition]
            controls = np.bincount(self.condition, weight**2 / size[self.control], self.count)
            return np.sqrt(inside[1:] / total[1:, None] + inside[0] * controls[1:, None])

    def _sums(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number of the chosen cells (groups,), and means of g and of its square (groups, G), 0 without cells."""
        group = self.group[chosen]
        size = np.bincount(group, minlength=len(self.size))
        weights = sp.csr_matrix((1.0 / size[group], (group, chosen)), (len(size), len(self.group)))
        return size, _dense(weights @ self.g), _dense(weights @ self.squared)

    def _by_condition(self, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(conditions, G) weighted sums over the groups of each condition."""
        groups = np.arange(len(weight))
        return sp.csr_matrix((weight, (self.condition, groups)), (self.count, len(groups))) @ values


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
