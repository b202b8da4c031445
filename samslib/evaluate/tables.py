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
