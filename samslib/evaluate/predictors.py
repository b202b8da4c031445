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
    - "guides pooled": the mean of x_t over the guides of one gene, weighted by cells; there only if `gene_of` or the
      data say which gene each guide targets, and some gene has several;
    - "guides pooled and shrunken", there too: x_t = m + a_j + b_t + noise, empirical Bayes in two levels, gene by gene,
      with a_j ~ N(0, alpha^2) of the target j, b_t ~ N(0, beta^2) of the guide, and v / n_t the variance of the noise.
      With weights w_t = 1 / (beta^2 + v / n_t) and p_j the weighted mean of x_t over the guides of j, the target's
      effect is u_j = m + (p_j - m) alpha^2 / (alpha^2 + 1 / sum of w_t), and the guide's is
      u_j + (x_t - u_j) beta^2 w_t. beta^2 is the variance of x_t within targets, pooled, less that of the noise;
      alpha^2 the variance over targets of the plain means over guides, less that of guides and noise; 0 at least;
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
        The gene that each guide targets: guide -> gene, or a function of the guide's name. None: the targets of the
        data (`target_of`); if there are none, guides are not pooled.
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
    genes = groups_of(known, data.target_of if gene_of is None and data.targets else gene_of, "gene").to_numpy()
    if pd.Index(genes).has_duplicates:
        sums = pd.DataFrame(np.hstack([cells, cells * x])).groupby(genes).transform("sum").to_numpy()
        effects["guides pooled"] = seen_parts @ (sums[:, 1:] / sums[:, :1])
        effects["guides pooled and shrunken"] = seen_parts @ _shrunken_twice(x, cells, seen.layers["variance"], genes)
    control = seen.var["control"].to_numpy(), seen.var["control_variance"].to_numpy()
    settings: dict[str, dict] = {name: {"readout": readout, "predictor": name} for name in effects}
    settings["low rank"]["rank"] = rank
    return {name: effect_table(data, labels, rows, {}, control, settings[name]) for name, rows in effects.items()}


def _shrunken(x: np.ndarray, cells: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(conditions, G) effects drawn towards their mean, from (conditions, 1) numbers of cells and their variances."""
    noise, deviation = _noise(cells, variance), x - x.mean(0)
    between = ((deviation**2).sum(0) / max(len(x) - 1, 1) - noise.mean(0)).clip(min=0)
    share = np.divide(between, between + noise, out=np.zeros_like(x), where=between + noise > 0)
    return x.mean(0) + deviation * share


def _shrunken_twice(x: np.ndarray, cells: np.ndarray, variance: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(conditions, G) effects drawn towards their target's, and these towards the mean; `target` is of each condition,
    and some have several."""

    def summed(values: np.ndarray) -> np.ndarray:  # over the guides of each target, a row a guide
        return pd.DataFrame(values).groupby(target).transform("sum").to_numpy()

    noise, first = _noise(cells, variance), ~pd.Index(target).duplicated()
    guides = summed(np.ones_like(cells))
    mean = summed(x) / guides
    within = (((x - mean) ** 2).sum(0) - ((1 - 1 / guides) * noise).sum(0)) / (len(x) - first.sum())
    own = within.clip(min=0)
    among = mean[first].var(0, ddof=int(first.sum() > 1)) - (summed(own + noise) / guides**2)[first].mean(0)
    weight = 1 / (own + noise).clip(min=1e-30)  # of a gene without variance all weigh the same
    total, common = summed(weight), among.clip(min=0)
    deviation = summed(weight * x) / total - x.mean(0)
    of_target = x.mean(0) + deviation * common / (common + 1 / total)
    return of_target + (x - of_target) * own * weight


def _noise(cells: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(conditions, G) variance of the noise of each effect, v / n_t, without that of the controls."""
    return ((cells - 1) * np.nan_to_num(variance)).sum(0) / max((cells - 1).sum(), 1) / cells


def _low_rank(x: np.ndarray, cells: np.ndarray, names: pd.Index, held: anndata.AnnData) -> tuple[np.ndarray, int]:
    left, size, right = np.linalg.svd(np.sqrt(cells) * x, full_matrices=False)
    scores = left * size / np.sqrt(cells)
    common = names.intersection(held.obs_names)
    fit, truth = scores[names.get_indexer(common)], held[common].X @ right.T  # right's rows are an orthonormal basis
    change = (held[common].obs["cells"].to_numpy()[:, None] * fit * (fit - 2 * truth)).sum(0)  # by one more of them
    rank = int(np.argmin([0, *change.cumsum()]))  # of the squared errors, less that of no effect
    return scores[:, :rank] @ right[:rank], rank
