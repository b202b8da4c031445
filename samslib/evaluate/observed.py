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

from samslib.data.container import PerturbationData, Split, check_data, split_labels
from samslib.data.disk import OnDisk
from samslib.data.messages import did_you_mean
from samslib.evaluate.tables import choose_readout, effect_table
from samslib.validation import DataError, choose, require


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
    standard_error
        (conditions, G) standard errors of the differences of the means from the control's, of which see `data_effects`;
        of the control itself without meaning.
    """

    mean: np.ndarray
    variance: np.ndarray
    size: np.ndarray
    standard_error: np.ndarray


def reference_cells(
    data: PerturbationData, reference: str = "all cells", split: Split | None = None, controls: str = "same"
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
        For a split without a part, or a part without control or perturbed cells.
    ValueError
        For an unknown part, or a part without a split.
    """
    check_data(data, "reference_cells")
    controls = reference if controls == "same" else controls
    for name, part in {"reference": reference, "controls": controls}.items():
        choose(name, part, ("all cells", "train", "val", "test"))
        require(part == "all cells" or split is not None, f"{name} is {part!r}, a part of a split; give the split too.")
    if split is not None and reference == controls == "all cells":
        raise DataError("A split is given, but reference='all cells' is no part of it; name a part, or give no split.")
    labels = "all cells" if split is None else split_labels(data, split)
    untreated = data.n_perturbations == 0
    asked = np.where(untreated, controls, reference)
    kept = (asked == "all cells") | (asked == labels)
    other = "choose controls='val' or 'all cells'" if split is not None else "give cells that hold controls"
    remedy = other if data.control is not None else "effects need a control label"
    require((kept & untreated).any(), f"There are no control cells ({controls}) to compare with; {remedy}.", DataError)
    require((kept & ~untreated).any(), f"There are no perturbed cells ({reference}); choose others.", DataError)
    return data[kept]


def data_effects(
    data: PerturbationData,
    readout: str = "perturbseq",
    reference: str = "all cells",
    split: Split | None = None,
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
    within = (within,) if isinstance(within, str) else tuple(within)
    _warn_of_confounding(cells, within)
    mean, variance, size, error = _Cells(cells, readout, within).moments(np.arange(len(cells)))
    controls = reference if controls == "same" else controls
    settings: dict = {"readout": readout, "reference": reference, "controls": controls, "within": ", ".join(within)}
    settings |= {"control_cells": int(size[0]), "median_library": float(np.median(cells.library))}
    obs = pd.DataFrame({"cells": size[1:]}, index=pd.Index(conditions(cells)[0][1:], name="perturbation"))
    layers = {"standard_error": error[1:], "variance": variance[1:]}
    return effect_table(cells, obs, mean[1:] - mean[0], layers, (mean[0], variance[0]), settings)


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
    require(not isinstance(data.x, OnDisk), "Readouts are held in memory; choose cells, then .to_memory().", DataError)
    if readout == "mean":
        return data.x.astype(np.float64)
    total = np.asarray(data.x.sum(1), dtype=np.float64).ravel()
    require(total.all(), f"{(total == 0).sum()} of {len(data)} cells have no counts; drop them first.", DataError)
    shares = sp.diags_array(1e4 / total) @ sp.csr_matrix(data.x, dtype=np.float64)
    return shares.log1p() / np.log(2)


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
    code, names = pd.factorize(np.r_[[""], np.where(data.n_perturbations > 0, data.labels, "")], sort=True)
    return [str(data.control), *names[1:]], code[1:]


def strata(data: PerturbationData, within: str | Sequence[str]) -> np.ndarray:
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
    names = np.array([level.split("=")[0] for level in data.covariates])
    texts = np.full(len(data), "", dtype=object)
    for i, name in enumerate([within] if isinstance(within, str) else within):
        if name not in names:
            known = sorted(set(names))
            hint = did_you_mean(name, known) or f"; its covariates are {', '.join(known) or 'none'}"
            raise DataError(f"The data have no covariate {name!r}{hint}; name it in from_anndata(covariates=).")
        texts += (", " if i else "") + levels[names == name][data.covariate[:, names == name].argmax(1)]
    return texts


def _warn_of_confounding(data: PerturbationData, within: Sequence[str]) -> None:
    """Names covariates, beside those compared within, whose levels are shared out differently among the cells of some
    condition and among controls: an exact test of each level's cells, times the numbers of levels and conditions."""
    names, code = conditions(data)
    found = {}
    for name in sorted({level.split("=")[0] for level in data.covariates} - set(within)):
        cells = pd.crosstab(code, strata(data, [name])).to_numpy()
        both, seen = cells[0] + cells[1:], cells[1:]  # (conditions, levels), of cells with controls and without
        law = hypergeom(both.sum(1, keepdims=True), both, seen.sum(1, keepdims=True))
        p = np.minimum(1, 2 * np.minimum(law.cdf(seen), law.sf(seen - 1))).min(1) * cells.shape[1]
        if (p * len(p)).min() < 1e-3:
            found[name] = names[1 + int(p.argmin())]
    if found:
        what = " and ".join(f"{name!r} (most for {condition!r})" for name, condition in found.items())
        remedy = f"compare them within levels, with within={[*within, *found]}"
        warnings.warn(f"Controls and perturbed cells differ in {what}; {remedy}.", stacklevel=3)


def replicates(
    data: PerturbationData, readout: str, resamples: int, within: str | Sequence[str] = (), *, seed: int = 0
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
    data: PerturbationData, readout: str, repeats: int, within: str | Sequence[str] = (), *, seed: int = 0
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

    def __init__(self, data: PerturbationData, readout: str, within: str | Sequence[str] = ()):
        self.g: Any = readouts(data, readout)
        self.squared = self.g.multiply(self.g) if sp.issparse(self.g) else self.g**2
        groups = pd.Series(0, data.cells).groupby([conditions(data)[1], strata(data, within)])
        self.group, size = groups.ngroup().to_numpy(), groups.size()
        self.condition, level = (size.index.get_level_values(i) for i in (0, 1))
        self.size = size.to_numpy()
        self.start = self.size.cumsum() - self.size
        self.order = np.argsort(self.group, kind="stable")
        self.by_condition = sp.csr_matrix((np.ones(len(size)), (self.condition, np.arange(len(size)))))
        self.control = level[self.condition == 0].get_indexer(level)  # the controls' groups come first, one a level
        lone = " and ".join(level[self.control < 0].unique())
        remedy = "leave them out, or do not compare within it"
        require(not lone, f"The perturbed cells of {lone} have no control cells; {remedy}.", DataError)

    def moments(self, chosen: np.ndarray) -> Moments:
        """Moments by condition of the chosen cells, each counted as often as it is named."""
        group = self.group[chosen]
        size = np.bincount(group, minlength=len(self.size))
        weights = sp.csr_matrix((1.0 / size[group], (group, chosen)), (len(size), len(self.group)))
        sums = (weights @ values for values in (self.g, self.squared))
        mean, square = (of.toarray() if sp.issparse(of) else of for of in sums)
        total, freedom = self.by_condition @ size, self.by_condition @ (size - 1).clip(min=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = size / total[self.condition]
            average, second = (self.by_condition @ (share[:, None] * of) for of in (mean, square))
            spread = (second - average**2).clip(min=0) * total[:, None]
            variance = spread / np.where(total > 1, total - 1, np.nan)[:, None]
            if self.control.any():  # each condition's mean as if its controls were spread over levels as it is
                average += average[0] - self.by_condition @ (share[:, None] * mean[self.control])
                spread = self.by_condition @ (size[:, None] * (square - mean**2).clip(min=0))
            within = spread / np.where(freedom > 0, freedom, np.nan)[:, None]
            controls = self.by_condition @ (share**2 / size[self.control])
            error = np.sqrt(within / total[:, None] + within[0] * controls[:, None])
        return Moments(average, variance, total, error)
