"""How far a query lies from what a model was trained on: distances between embeddings of conditions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist

from samslib.alignment import align
from samslib.cells import Condition
from samslib.data.container import PerturbationData
from samslib.evaluate.streams import evaluating
from samslib.evaluate.tables import Named
from samslib.model import Model
from samslib.validation import require


def distance_to_training(
    model: Model, train: PerturbationData, queries: Sequence[Named], covariates: Sequence[str] = (), min_cells: int = 31
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
    min_cells
        Only training conditions of at least so many cells count; by default of more than 30, as published.

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
    from sklearn.metrics.pairwise import cosine_distances

    require(hasattr(model, "embed"), f"{type(model).__name__} has no embedding of a condition as such; use CPA.")
    train = align(train, model)
    T = len(train.perturbations)
    kinds, times = np.unique(np.hstack([train.dose.toarray(), train.covariate]), axis=0, return_counts=True)
    few = f"No training condition has {min_cells} cells or more (the largest has {times.max()}); lower min_cells."
    require(times.max() >= min_cells, few)
    trained = torch.from_numpy(kinds[times >= min_cells])
    dose, levels = torch.cat([train.dose_of(query) for query in queries]), train.levels_of(covariates)
    asked = torch.hstack([dose, levels.expand(len(dose), -1)])
    a, b = (_embeddings(model, rows[:, :T], rows[:, T:]) for rows in (asked, trained))
    names, index = ([train.describe(row[:T], row[T:]) for row in rows.numpy()] for rows in (trained, asked))
    distances = {"cosine": cosine_distances(a, b), "euclidean": cdist(a, b)}
    table: dict[str, object] = {}
    for (what, distance), other in zip(distances.items(), reversed(distances.values()), strict=True):
        nearest = np.lexsort((other, distance.round(6)))[:, 0]
        table |= {what: distance[np.arange(len(a)), nearest], f"nearest_{what}": np.array(names, dtype=object)[nearest]}
    return pd.DataFrame(table, index=pd.Index(index, name="query"))


def _embeddings(model, dose, covariate) -> np.ndarray:
    """(n, K) the model's vectors of conditions (n, T) and (n, C), in float64."""
    with evaluating(model, 0) as like:
        constants = like.new_ones(len(dose), 1), covariate.to(like), like.new_zeros(len(dose), 0)
        return model.embed(Condition(dose.to(like), *constants)).double().cpu().numpy()
