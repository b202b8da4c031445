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
    """(..., G) counts -> log2(1 + 10,000 x / sum of x), the published readout; a cell without counts reads as zero."""
    return (1e4 * x / x.sum(-1, keepdim=True).clamp(min=1)).log1p() / np.log(2)


READOUTS = {"perturbseq": perturbseq, "mean": lambda x: x}


def choose_readout(readout: str, data: PerturbationData) -> Callable[[Tensor], Tensor]:
    """The readout of that name. Raises ValueError for another name, or for shares of counts where there are none."""
    if not data.counts and readout == "perturbseq":
        raise ValueError("The readout 'perturbseq' is of counts, and these data are real values; give readout='mean'.")
    return choose("readout", readout, READOUTS)


def arms(data: PerturbationData, perturbations: Sequence[Named] | None) -> tuple[list[str], Tensor]:
    """Labels and doses (arms, T) of perturbations given by name or by amounts (default: all conditions). A label says
    the dose where it is not 1, so that no two rows of a table are called the same."""
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
    effect: np.ndarray,
    layers: Mapping[str, np.ndarray],
    control: tuple[np.ndarray, np.ndarray],
    settings: Mapping[str, object],
) -> anndata.AnnData:
    """The form of every table of effects, of a model or of cells: see `average_effects`. obs: names of the rows, or a
    table indexed by them."""
    return anndata.AnnData(
        np.asarray(effect, dtype=np.float64),
        obs=obs if isinstance(obs, pd.DataFrame) else pd.DataFrame(index=pd.Index(obs, name="perturbation")),
        var=pd.DataFrame(
            {"control": control[0], "control_variance": control[1]}, index=pd.Index(data.genes, name="gene")
        ),
        layers=dict(layers),
        uns={"samslib": dict(settings) | {"separator": data.separator or ""}},
    )
