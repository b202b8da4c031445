"""How far a query lies from what a model was trained on: distances between embeddings of conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from samslib.alignment import align
from samslib.cells import Condition
from samslib.data.container import PerturbationData
from samslib.evaluate.streams import evaluating
from samslib.model import Model


def distance_to_training(
    model: Model,
    train: PerturbationData,
    queries: Sequence[str | Mapping[str, float]],
    covariates: Sequence[str] = (),
    cells: int = 30,
) -> pd.DataFrame:
    """Smallest cosine and Euclidean distance of each query's embedding to those of the training conditions.

    The basal state plays no part, so the distance is the same for every cell.

    Parameters
    ----------
    model
        A trained model that embeds a condition whatever the cell, such as CPA.
    train
        The cells it was trained on. A training condition is a set of doses with its covariates.
    queries
        Names of conditions, at their usual dose, or amounts by perturbation such as {"A": 0.5, "B": 2}.
    covariates
        The queries' levels, such as ["line=K562"], one for each covariate of the data.
    cells
        Only training conditions of more cells than this count.

    Returns
    -------
    DataFrame
        One row a query: "cosine", "nearest_cosine", "euclidean", "nearest_euclidean". Between a zero vector, such
        as control without covariates, and another the cosine distance is 1. Of conditions that tie in one distance,
        the one nearer by the other is named.

    Raises
    ------
    ValueError
        For a model without such embeddings, an unknown name, a level that is missing or given twice, or if no
        training condition has enough cells.

    References
    ----------
    Lotfollahi et al. (2023), Predicting cellular responses to complex perturbations in high-throughput screens.
    """
    if not hasattr(model, "embed"):
        raise ValueError(f"{type(model).__name__} has no embedding of a condition apart from its cells; use CPA.")
    train = align(train, model)
    both = np.hstack([train.dose.toarray(), train.covariate])
    kinds, times = np.unique(both, axis=0, return_counts=True)
    kept = times > cells
    if not kept.any():
        raise ValueError(f"No training condition has more than {cells} cells (the largest has {times.max()}).")
    T = len(train.perturbations)
    dose = torch.cat([train.dose_of(query) for query in queries])
    levels = train.levels_of(covariates)
    trained = torch.from_numpy(kinds[kept])
    a = _embeddings(model, dose, levels.expand(len(dose), -1))
    b = _embeddings(model, trained[:, :T], trained[:, T:])
    euclidean, cosine = cdist(a, b), _cosine(a, b)
    names = np.array([train.describe(row[:T], row[T:]) for row in kinds[kept]], dtype=object)
    table: dict[str, object] = {}
    for what, distance, other in (("cosine", cosine, euclidean), ("euclidean", euclidean, cosine)):
        nearest = [np.lexsort((second, one.round(6)))[0] for one, second in zip(distance, other, strict=True)]
        table |= {what: distance[np.arange(len(a)), nearest], f"nearest_{what}": names[nearest]}
    index = [train.describe(row, levels[0].numpy()) for row in dose.numpy()]
    return pd.DataFrame(table, index=pd.Index(index, name="query"))


def _embeddings(model: Any, dose: Tensor, covariate: Tensor) -> np.ndarray:
    """(n, K) the model's vectors of conditions (n, T) and (n, C), in float64."""
    n = len(dose)
    with evaluating(model, 0) as like:
        c = Condition(dose.to(like), like.new_ones(n, 1), covariate.to(like), like.new_zeros(n, 0))
        return model.embed(c).double().cpu().numpy()


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return 1 - np.divide(a @ b.T, norms, out=np.zeros_like(norms), where=norms > 0)
