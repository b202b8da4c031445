"""Readouts of expression, and the one form of every table of effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import anndata
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from samslib.data.container import PerturbationData
from samslib.validation import choose

Named = str | Mapping[str, float]  # a condition's name, or amounts by perturbation


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
    if isinstance(asked, str):
        raise ValueError(f"perturbations is {asked!r}; give a list of names.")
    if not len(asked):
        raise ValueError("perturbations is empty; name at least one, or leave it for every condition of the data.")
    doses = [data.dose_of(name) for name in asked]
    labels = [data.describe(row[0].tolist()) for row in doses]
    if len(twice := pd.Index(labels)[pd.Index(labels).duplicated()]):
        raise ValueError(f"{twice[0]!r} is asked for twice; name each condition once.")
    return labels, torch.cat(doses)


def effect_table(
    data: PerturbationData,
    obs: Sequence[str] | pd.DataFrame,
    effect: np.ndarray | Tensor,
    layers: Mapping[str, np.ndarray | Tensor],
    control: Sequence[np.ndarray | Tensor],
    settings: Mapping[str, object],
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
        Further (rows, G) matrices by name.
    control
        Mean and variance (G,) of the readout in the control cells.
    settings
        What the table was made with, for uns["samslib"].

    Returns
    -------
    AnnData
        Perturbations x genes.
    """
    return anndata.AnnData(
        np.asarray(effect, dtype=np.float64),
        obs=obs if isinstance(obs, pd.DataFrame) else pd.DataFrame(index=pd.Index(obs, name="perturbation")),
        var=pd.DataFrame(
            {"control": np.asarray(control[0]), "control_variance": np.asarray(control[1])},
            index=pd.Index(data.genes, name="gene"),
        ),
        layers={name: np.asarray(layer) for name, layer in layers.items()},
        uns={"samslib": dict(settings) | {"separator": data.separator or ""}},
    )
