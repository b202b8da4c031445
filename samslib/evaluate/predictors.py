"""Predictions of effects from training cells alone, without a model: the bar that a model must clear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import anndata
import numpy as np
import pandas as pd

from samslib.data.container import PerturbationData, check_data
from samslib.evaluate.observed import data_effects
from samslib.evaluate.tables import arms, effect_table
from samslib.validation import DataError


def predictors(
    train: PerturbationData,
    val: PerturbationData,
    data: PerturbationData,
    perturbations: Sequence[str] | None = None,
    readout: str = "perturbseq",
    gene_of: Mapping[str, str] | Callable[[str], str] | None = None,
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
    if not data.genes == train.genes == val.genes:
        raise DataError("Training, validation and all cells have different genes; give parts of the same data.")
    seen, held = data_effects(train, readout, within=within), data_effects(val, readout, within=within)
    x, cells = np.asarray(seen.X), seen.obs["cells"].to_numpy(float)
    low, rank = _low_rank(x, cells, seen.obs_names, held)
    matrices = {
        "training cells": x,
        "mean effect": np.broadcast_to(x.mean(0), x.shape),
        "shrunken": _shrunken(x, cells, seen.layers["variance"]),
        "low rank": low,
    }
    genes = None if gene_of is None else _genes(seen.obs_names, gene_of)
    if genes is not None and genes.duplicated().any():
        matrices["guides pooled"] = _pooled(x, cells, genes)
    labels, _ = arms(data, perturbations)
    names = data.naming
    weights = pd.DataFrame(0.0, index=pd.RangeIndex(len(labels)), columns=seen.obs_names)
    for i, label in enumerate(labels):
        for part in [label] if label in weights else [p for p in names.perturbations(label) if p in weights]:
            weights.iloc[i, weights.columns.get_loc(part)] = 1
    tables = {}
    for name, matrix in matrices.items():
        rows = matrix[:1].repeat(len(labels), 0) if name == "mean effect" else weights.to_numpy() @ matrix
        settings = {"readout": readout, "predictor": name} | ({"rank": rank} if name == "low rank" else {})
        control = seen.var["control"].to_numpy(), seen.var["control_variance"].to_numpy()
        tables[name] = effect_table(data, labels, rows, {}, control, settings)
    return tables


def _shrunken(x: np.ndarray, cells: np.ndarray, variance: np.ndarray) -> np.ndarray:
    free = np.clip(cells - 1, 0, None)[:, None]
    within = (free * np.nan_to_num(variance)).sum(0) / max(free.sum(), 1)
    noise = within / cells[:, None]
    mean = x.mean(0)
    between = ((x - mean) ** 2).sum(0) / max(len(x) - 1, 1) - noise.mean(0)
    between = between.clip(min=0)
    share = np.divide(between, between + noise, out=np.zeros_like(x), where=between + noise > 0)
    return mean + (x - mean) * share


def _genes(guides: pd.Index, gene_of: Mapping[str, str] | Callable[[str], str]) -> pd.Series:
    of = pd.Series([gene_of(name) if callable(gene_of) else gene_of.get(name) for name in guides], guides)
    if of.isna().any():
        raise DataError(f"gene_of has no gene for {of.index[of.isna()][0]!r}; give one for every condition.")
    return of


def _pooled(x: np.ndarray, cells: np.ndarray, gene: pd.Series) -> np.ndarray:
    code, genes = pd.factorize(gene)
    sums, sizes = np.zeros((len(genes), x.shape[1])), np.bincount(code, cells)
    np.add.at(sums, code, cells[:, None] * x)
    return (sums / sizes[:, None])[code]


def _low_rank(x: np.ndarray, cells: np.ndarray, names: pd.Index, held: anndata.AnnData) -> tuple[np.ndarray, int]:
    root = np.sqrt(cells)[:, None]
    left, size, right = np.linalg.svd(root * x, full_matrices=False)
    common = names.intersection(held.obs_names)
    at, truth = names.get_indexer(common), np.asarray(held[common].X)
    weight = held[common].obs["cells"].to_numpy(float)[:, None]
    errors, fit = [], np.zeros_like(truth)
    for k in range(len(size) + 1):
        errors.append(float((weight * (fit - truth) ** 2).sum()))
        if k < len(size):
            fit = fit + (left[at, k : k + 1] / root[at]) * size[k] @ right[k : k + 1]
    rank = int(np.argmin(errors))
    return (left[:, :rank] * size[:rank] @ right[:rank]) / root, rank
