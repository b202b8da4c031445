"""Predictions of effects from training cells alone, without a model: the bar that a model must clear."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd

from samslib.data.container import PerturbationData, check_data
from samslib.evaluate.observed import data_effects
from samslib.evaluate.tables import Groups, arms, effect_table, groups_of
from samslib.validation import DataError, require


def predictors(
    train: PerturbationData,
    val: PerturbationData,
    data: PerturbationData,
    perturbations: Sequence[str] | None = None,
    readout: str = "perturbseq",
    gene_of: Groups = None,
    within: str | Sequence[str] = (),
) -> dict[str, anndata.AnnData]:
    """Effects predicted from training cells alone, in several ways.

    - "training cells": x_t, the effect in training cells, which is to memorise;
    - "mean effect": m, the mean of x_t over training conditions, for every perturbation;
    - "shrunken": m + (x_t - m) tau^2 / (tau^2 + v / n_t), empirical Bayes gene by gene, with v the variance between
      cells of a condition, pooled over conditions, n_t the number of cells and tau^2 the variance of x_t over
      conditions less the mean of v / n_t, if above 0;
    - "guides pooled": the mean of x_t over the guides of one gene, weighted by cells; there only if `gene_of` says
      which gene each guide targets, and some gene has several;
    - "low rank": x_t cut to the first singular vectors of the rows sqrt(n_t) x_t, as many as have the smallest squared
      error, weighted by cells, against the effects of the validation cells (uns["samslib"]["rank"]).

    A combination without training cells is predicted as the sum of its parts, of which unseen ones count as 0; so does
    an unseen perturbation; the mean effect is the same for all. The controls are the training ones.

    Parameters
    ----------
    train
        Training cells, with controls.
    val
        Validation cells, with controls; they choose the rank of "low rank".
    data
        All cells, whose conditions are predicted.
    perturbations
        Names of the conditions to predict. None: every condition of `data`.
    readout
        The function of expression; a name of `READOUTS`.
    gene_of
        The gene that each guide targets: guide -> gene, or a function of the guide's name. None: no "guides pooled".
    within
        Covariates within whose levels effects are taken, as in `data_effects`; by default none.

    Returns
    -------
    dict
        Name of the predictor -> table of effects, in the form of `average_effects`.

    Raises
    ------
    DataError
        Where training or validation cells lack control or perturbed cells, where the three have different genes, for a
        name with a part that `data` do not know, and for a guide without a gene.
    """
    train, val, data = (check_data(part, "predictors") for part in (train, val, data))
    require(data.genes == train.genes == val.genes, "The parts have different genes; split the same data.", DataError)
    seen, held = (data_effects(part, readout, within=within) for part in (train, val))
    x, cells, known = np.asarray(seen.X), seen.obs["cells"].to_numpy(float)[:, None], seen.obs_names
    low, rank = _low_rank(x, cells, known, held)
    labels, _ = arms(data, perturbations)
    parts = [[label] if label in known else data.naming.perturbations(label) for label in labels]
    seen_parts = np.array([known.isin(names) for names in parts], dtype=float)
    effects = {"training cells": seen_parts @ x, "mean effect": np.tile(x.mean(0), (len(labels), 1))}
    effects["shrunken"] = seen_parts @ _shrunken(x, cells, seen.layers["variance"])
    effects["low rank"] = seen_parts @ low
    genes = groups_of(known, gene_of, "gene")
    if genes.duplicated().any():
        sums = pd.DataFrame(np.hstack([cells, cells * x])).groupby(genes.to_numpy()).transform("sum").to_numpy()
        effects["guides pooled"] = seen_parts @ (sums[:, 1:] / sums[:, :1])
    control = seen.var["control"].to_numpy(), seen.var["control_variance"].to_numpy()
    settings: dict[str, dict] = {name: {"readout": readout, "predictor": name} for name in effects}
    settings["low rank"]["rank"] = rank
    return {name: effect_table(data, labels, rows, {}, control, settings[name]) for name, rows in effects.items()}


def _shrunken(x: np.ndarray, cells: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(conditions, G) effects drawn towards their mean, from (conditions, 1) numbers of cells and their variances."""
    pooled = ((cells - 1) * np.nan_to_num(variance)).sum(0) / max((cells - 1).sum(), 1)
    noise, deviation = pooled / cells, x - x.mean(0)
    between = ((deviation**2).sum(0) / max(len(x) - 1, 1) - noise.mean(0)).clip(min=0)
    share = np.divide(between, between + noise, out=np.zeros_like(x), where=between + noise > 0)
    return x.mean(0) + deviation * share


def _low_rank(x: np.ndarray, cells: np.ndarray, names: pd.Index, held: anndata.AnnData) -> tuple[np.ndarray, int]:
    left, size, right = np.linalg.svd(np.sqrt(cells) * x, full_matrices=False)
    scores = left * size / np.sqrt(cells)
    common = names.intersection(held.obs_names)
    fit, truth = scores[names.get_indexer(common)], held[common].X @ right.T  # right's rows are an orthonormal basis
    change = (held[common].obs["cells"].to_numpy()[:, None] * fit * (fit - 2 * truth)).sum(0)  # by one more of them
    rank = int(np.argmin([0, *change.cumsum()]))  # of the squared errors, less that of no effect
    return scores[:, :rank] @ right[:rank], rank
