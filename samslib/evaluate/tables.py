"""Readouts of expression, and the one form of every table of effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import anndata
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from samslib.data.container import PerturbationData
from samslib.validation import DataError, choose, require

Named = str | Mapping[str, float]  # a condition's name, or amounts by perturbation
Labels: TypeAlias = Mapping[str, str] | pd.Series  # a label of each name, or of some
Groups: TypeAlias = Labels | Callable[[str], str] | None  # the group of each name, such as a guide's gene; None: itself


def perturbseq(x: Tensor) -> Tensor:
    """The published readout of Perturb-seq counts: log2(1 + 10,000 x / sum of x).

    Parameters
    ----------
    x
        (..., G) counts.

    Returns
    -------
    Tensor
        (..., G), on the log2 scale; a cell without counts reads as zero.
    """
    return (1e4 * x / x.sum(-1, keepdim=True).clamp(min=1)).log1p() / np.log(2)


READOUTS = {"perturbseq": perturbseq, "mean": lambda x: x}


def choose_readout(readout: str, data: PerturbationData) -> Callable[[Tensor], Tensor]:
    """The readout of that name.

    Parameters
    ----------
    readout
        A name of `READOUTS`.
    data
        The data that it is to be taken of.

    Returns
    -------
    Callable
        From expression (..., G) to the readout of the same shape.

    Raises
    ------
    ValueError
        For an unknown name, or for "perturbseq", shares of counts, where the data are real values.
    """
    if not data.counts and readout == "perturbseq":
        raise ValueError("The readout 'perturbseq' is of counts, and these data are real values; give readout='mean'.")
    return choose("readout", readout, READOUTS)


def arms(data: PerturbationData, perturbations: Sequence[Named] | None) -> tuple[list[str], Tensor]:
    """Labels and doses of perturbations given by name or by amounts.

    Parameters
    ----------
    data
        The data whose perturbations they are.
    perturbations
        Names of conditions, or amounts by perturbation such as {"A": 0.5, "B": 2}. None: all conditions but control.

    Returns
    -------
    tuple
        Labels, which say the dose where it is not 1, so that no two rows of a table are called the same; and doses
        (arms, T).

    Raises
    ------
    ValueError
        For a single text in place of a list, an empty list, or a condition that is named twice.
    """
    asked = perturbations if perturbations is not None else [c for c in data.conditions().index if c != data.control]
    require(not isinstance(asked, str), f"perturbations is {asked!r}; give a list of names.")
    require(len(asked), "perturbations is empty; name at least one, or leave it for every condition of the data.")
    doses = [data.dose_of(name) for name in asked]
    labels = [data.describe(row[0].tolist()) for row in doses]
    if len(twice := pd.Index(labels)[pd.Index(labels).duplicated()]):
        raise ValueError(f"{twice[0]!r} is asked for twice; name each condition once.")
    return labels, torch.cat(doses)


def effect_table(
    data: PerturbationData, obs: list | pd.DataFrame, effect: ArrayLike, layers: dict, control: tuple, settings: dict
) -> anndata.AnnData:
    """The form of every table of effects, of a model or of cells: see `average_effects`.

    Parameters
    ----------
    data
        The data, for the names of genes and the separator of combinations.
    obs
        Names of the rows, or a table indexed by them.
    effect
        (rows, G) effects.
    layers
        Further (rows, G) arrays by name.
    control
        Mean and variance (G,) of the readout in the control cells.
    settings
        What the table was made with, for uns["samslib"].

    Returns
    -------
    AnnData
        Perturbations x genes.
    """
    obs = obs if isinstance(obs, pd.DataFrame) else pd.DataFrame(index=pd.Index(obs, name="perturbation"))
    var = pd.DataFrame(np.stack(control, 1), pd.Index(data.genes, name="gene"), ["control", "control_variance"])
    uns = {"samslib": dict(settings) | {"separator": data.separator or ""}}
    layers = {name: np.asarray(layer) for name, layer in layers.items()}
    return anndata.AnnData(np.asarray(effect, dtype=np.float64), obs=obs, var=var, layers=layers, uns=uns)


def groups_of(names: pd.Index, groups: Groups, what: str) -> pd.Series:
    """The group of each name.

    Parameters
    ----------
    names
        Names of perturbations.
    groups
        The group of each, by name, or a function of the name. None: each is a group of its own.
    what
        What the groups are, for the message: "gene".

    Returns
    -------
    Series
        Groups as text, by name.

    Raises
    ------
    DataError
        For names without a group.
    """
    found = names.to_series().map(str if groups is None else groups)
    if len(wrong := names[found.isna()]):
        raise DataError(f"{len(wrong)} perturbations have no {what} ({', '.join(wrong[:3])}); give each of them one.")
    return found.astype(str)


def by_target(effects: anndata.AnnData, targets: PerturbationData | Labels | Callable[[str], str]) -> anndata.AnnData:
    """Effects of guides averaged to those of their targets, of a model's table or of an observed one.

    Parameters
    ----------
    effects
        Table of effects in the form of `average_effects`, a row a condition of guides.
    targets
        Data with targets, usually the training cells: a condition is read as one of targets ("P1_a+P2_b" is "P1+P2"),
        and the guides of a target weigh as many cells as they have in these data, or alike if none has any. Or a
        mapping or function from row to target, with which guides weigh alike. Give the same for tables to be compared.

    Returns
    -------
    AnnData
        Targets x genes, in the same form, for all functions that take tables. Layers as far as the table has them for
        all guides: "variance", that of g between all cells of a target, so also between guides; "standard_error".
        Errors of guides are correlated, for they share their control, and in a model draws of latents. Observed effects
        not taken within levels share the control cells alone, which is reckoned with. For all others it is the weighted
        mean of the guides' errors, as if these were one and the same: a bound from above. obs: "guides", their number;
        and as far as the table has them "cells" and "training_cells", summed, and "untrained", where all guides are.

    Raises
    ------
    DataError
        For data without targets or that do not know a row, and for a row without a target.
    """
    cells = pd.Series(1.0, effects.obs_names)
    if isinstance(targets, PerturbationData):
        seen, targets = targets.conditions()["cells"], targets.target_of
        cells *= seen.reindex(cells.index, fill_value=0)
    code, names = pd.factorize(groups_of(cells.index, targets, "target"), sort=True)
    cells = cells.where(cells.groupby(code).transform("sum") > 0, 1.0)
    weight = np.equal.outer(np.arange(len(names)), code) * (cells / cells.groupby(code).transform("sum")).to_numpy()
    x, layers = weight @ effects.X, {}
    used = {name: np.where(weight.any(0)[:, None], layer, 0) for name, layer in effects.layers.items()}
    if "variance" in used:
        layers["variance"] = weight @ (used["variance"] + np.square(effects.X)) - x**2
    if "standard_error" in used:
        layers["standard_error"] = _error_of_means(weight, used["standard_error"], effects)
    obs = pd.DataFrame({"guides": np.bincount(code)}, pd.Index(names, name="target"))
    for name, joined in {"cells": "sum", "training_cells": "sum", "untrained": "all"}.items():
        if name in effects.obs:
            obs[name] = effects.obs[name].groupby(code).agg(joined).to_numpy()
    return anndata.AnnData(x, obs=obs, var=effects.var.copy(), layers=layers, uns=dict(effects.uns))


def _error_of_means(weight: np.ndarray, error: np.ndarray, effects: anndata.AnnData) -> np.ndarray:
    """Standard errors of weighted means of rows; `error` are those of the rows."""
    settings = effects.uns["samslib"]
    if settings.get("within", "unknown"):  # no table of observed effects, or one whose controls differ between rows
        return weight @ error
    shared = (effects.var["control_variance"] / settings["control_cells"]).to_numpy()
    return np.sqrt(weight**2 @ (error**2 - shared) + shared)
