"""Scores of predicted effects and cells against observed ones, with intervals over cells and a noise ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from samslib.data.container import PerturbationData, check_data
from samslib.data.splits import Splitter
from samslib.evaluate.observed import Moments, data_effects, halves, readouts, reference_cells, replicates
from samslib.evaluate.predictors import predictors
from samslib.validation import choose, did_you_mean, in_order, left_out

Key = tuple[str, str]  # perturbation, score

POOLED, MEDIAN, INTERACTION = "pooled", "median", "interaction_pearson"

CORRELATIONS = ("pearson", "pearson_top20", "cosine", "cosine_logfc", INTERACTION)

DETERMINATIONS = ("r2", "r2_top20", "cpa_r2_mean", "cpa_r2_variance")

BANDWIDTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)


def effect_scores(
    predicted: anndata.AnnData,
    observed: anndata.AnnData,
    cells: PerturbationData | None = None,
    perturbations: Sequence[str] | None = None,
    resamples: int = 200,
    level: float = 0.95,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """How well predicted effects agree with observed ones, by perturbation and pooled.

    Per perturbation, over genes, u predicted and w observed:

    - pearson, r2 (w is the truth), cosine and rmse of u and w, log2 fold changes if the readout is Perturb-seq's;
    - pearson_top20, r2_top20: over the 20 genes of largest absolute w;
    - jaccard_top20, jaccard_top50: overlap of the genes of largest absolute u and w (CRADLE-VAE; no test is
      involved);
    - rmse_average, cosine_logfc, rank_rmse, rank_cosine (PerturBench): of mean log(1 + x), and of log2(mean + 0.1)
      minus that of the observed controls. A rank is the share of perturbations whose prediction is closer to w than its
      own: 0 is best, one half is chance. A tie counts one half, the mean of the published random order;
    - cpa_r2_mean, cpa_r2_variance (CPA): R2 of the arm's mean and of its variance between cells, over genes;
    - interaction_pearson: for pairs whose parts are in both tables, of the residuals u_AB - u_A - u_B and w's.

    The row "pooled" is the published number: pearson, r2, their top-20 variants and interactions over all entries
    flattened, the CPA scores as a mean over conditions of more than 30 cells, all others as a mean over perturbations.
    "median" is the median over perturbations: the flattened numbers are ruled by the strongest.

    An interval is the value plus the `level` quantiles of its deviation from the mean over bootstrap resamples of cells
    within conditions. It says how far another sample of as many cells would move the value. Resampled effects carry
    noise twice, so their own mean lies lower, and most intervals are rather too wide: in 60 simulated repeats those of
    95% for correlations, R2 and errors covered the mean score in 98% or more, but those of jaccard_top20, which moves
    in steps, in 85%.

    Parameters
    ----------
    predicted
        Table of effects, perturbations x genes, of `average_effects`, `predictors` or `data_effects`.
    observed
        Table of effects in the same form, usually of `data_effects`, of the same genes and readout.
    cells
        The cells of which `observed` are the effects, for intervals. None: no intervals.
    perturbations
        Names of the perturbations to score. None: all that both tables have.
    resamples
        Number of bootstrap resamples.
    level
        Coverage of the intervals, between 0 and 1.
    seed
        Seed of the resamples.

    Returns
    -------
    DataFrame
        Tidy columns perturbation, score, value, low, high; what is undefined (a constant effect, no variance predicted,
        no pair) is left out.

    Raises
    ------
    ValueError
        For tables of different genes or readouts, for perturbations that a table lacks, and for cells that do not have
        the observed effects.
    """
    table = _scored({"": predicted}, observed, cells, perturbations, resamples, level, seed)
    return table.drop(columns="model")


def noise_ceiling(
    cells: PerturbationData,
    readout: str = "perturbseq",
    perturbations: Sequence[str] | None = None,
    repeats: int = 20,
    within: str | Sequence[str] = (),
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """What the true effects would score against the effects of these cells, from random halves of every condition.

    With c the score of one half against the other, averaged over `repeats`: a correlation's ceiling is
    sqrt(2 c / (1 + c)), the Spearman-Brown reliability of all cells under a root, because the truth has no noise of its
    own; that of an R2 is 2 c / (1 + c) with c = (1 + R2 of the halves) / 2; that of a root mean square error is half of
    the halves', for their difference has four times the variance. Ranks and overlaps have no such formula: theirs is
    the halves' own score, which all cells would exceed. A c below 0 counts as 0. Conditions of one cell have no halves
    and no ceiling.

    Parameters
    ----------
    cells
        The cells of which the observed effects are taken.
    readout
        The function of expression; a name of `READOUTS`.
    perturbations
        Names of the perturbations. None: all of the cells'.
    repeats
        Number of random splits into halves.
    within
        Covariates within whose levels effects are taken, as in `data_effects`.
    seed
        Seed of the splits into halves.

    Returns
    -------
    DataFrame
        Tidy columns perturbation, score, ceiling; the names of `effect_scores`.

    Raises
    ------
    ValueError
        For a perturbation that the cells lack.
    """
    observed = data_effects(cells, readout, within=within)
    names = observed.obs_names if perturbations is None else perturbations
    trial = _Trial.of(observed, observed, [n for n in names if n not in observed.obs_names[observed.obs["cells"] < 2]])
    found: dict[Key, list[float]] = {}
    for a, b in halves(cells, readout, repeats, _levels(observed), seed=seed):
        one = replace(trial, predicted=_view_of(a, observed))
        for key, value in one.score(_view_of(b, observed)).items():
            found.setdefault(key, []).append(value)
    rows = [(*key, _attainable(key[1], float(np.mean(values)))) for key, values in found.items()]
    return pd.DataFrame(rows, columns=["perturbation", "score", "ceiling"])


def score_table(
    predicted: Mapping[str, anndata.AnnData],
    data: PerturbationData,
    split: Splitter | np.ndarray,
    part: str = "test",
    readout: str = "perturbseq",
    controls: str | None = None,
    data_only: bool = True,
    resamples: int = 200,
    references: Sequence[str] = ("all cells", "held out"),
    gene_of: Mapping[str, str] | Callable[[str], str] | None = None,
    within: str | Sequence[str] = (),
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Models side by side, on the perturbations that occur in a part of the split, against two references.

    Parameters
    ----------
    predicted
        Tables of effects by name of the model.
    data
        All cells.
    split
        A splitter of `samslib.splits`, or the part of each cell: (n,) "train", "val" or "test", in order or by name.
    part
        The part whose perturbations are scored.
    readout
        The function of expression; a name of `READOUTS`.
    controls
        The part whose control cells the reference "held out" compares with. None: the part's own, or if it has none the
        validation split's.
    data_only
        Also score the `predictors` from training cells, as "data: ...".
    resamples
        Number of bootstrap resamples for the 95% intervals.
    references
        "all cells": the effects of all cells, training cells included, as published. "held out": of that part's cells
        only. One of the two alone takes half the time.
    gene_of
        The gene that each guide targets (guide -> gene, or a function of the guide's name), for the predictor that
        pools the guides of a gene. None: without that predictor.
    within
        Covariates within whose levels effects of cells are taken, as in `data_effects`.
    seed
        Seed of resamples and halves.

    Returns
    -------
    DataFrame
        The columns of `effect_scores` with reference, model and the `noise_ceiling`; "noise", the share of a predicted
        effect's variance over genes that is its own error (a model's is that of simulation, and falls with particles),
        missing for tables without one; attrs["controls"] says whose controls were used.

    Raises
    ------
    ValueError
        For an unknown reference, for controls that no reference uses, and as `effect_scores` and `reference_cells` do.
    """
    check_data(data, "score_table")
    choose("part", part, ("train", "val", "test"))
    word = in_order(split(data) if callable(split) else split, data.cells, "cells")
    inside = data[word == part]
    names = sorted(set(inside.labels[inside.n_perturbations > 0]))
    if "held out" not in references:
        left_out("only the reference 'held out' chooses controls", controls=controls)
    controls = controls or ("same" if (inside.n_perturbations == 0).any() else "val")
    tables = dict(predicted)
    if data_only:
        made = predictors(data[word == "train"], data[word == "val"], data, None, readout, gene_of, within)
        tables |= {f"data: {name}": table for name, table in made.items()}
    parts = []
    known = {"all cells": lambda: data, "held out": lambda: reference_cells(data, part, word, controls)}
    for reference in references:
        cells = choose("reference", reference, known)()
        observed = data_effects(cells, readout, within=within)
        scored = _scored(tables, observed, cells, names, resamples, 0.95, seed)
        ceiling = noise_ceiling(cells, readout, names, seed=seed, within=within)
        parts.append(scored.merge(ceiling, how="left", on=["perturbation", "score"]).assign(reference=reference))
    table = pd.concat(parts, ignore_index=True)
    table = table.merge(_noise(tables, names), how="left", on=["model", "perturbation"])
    table = table[["reference", "model", "perturbation", "score", "value", "low", "high", "ceiling", "noise"]]
    table.attrs["controls"] = part if controls == "same" else controls
    return table


def _noise(predicted: Mapping[str, anndata.AnnData], names: Sequence[str]) -> pd.DataFrame:
    """Columns model, perturbation and noise, see `score_table`."""
    rows = []
    for model, table in predicted.items():
        if "standard_error" in table.layers:
            at = table.obs_names.isin(names)
            error, effect = np.asarray(table.layers["standard_error"])[at] ** 2, np.asarray(table.X)[at]
            each = dict(zip(table.obs_names[at], error.mean(1) / effect.var(1), strict=True))
            each |= {POOLED: error.mean() / effect.var(), MEDIAN: np.median(list(each.values()))}
            rows += [(model, name, share) for name, share in each.items()]
    return pd.DataFrame(rows, columns=["model", "perturbation", "noise"])


def interactions(effects: anndata.AnnData) -> anndata.AnnData:
    """How far the effects of pairs are from the sum of their parts' effects.

    Parameters
    ----------
    effects
        A table of effects, perturbations x genes, of a model or of cells.

    Returns
    -------
    AnnData
        Pairs x genes: X the residual effect_AB - effect_A - effect_B; layers "effect" and "additive" (the sum); obs
        "pearson" of these two over genes, and "rms" of the residual. Pairs of which a part has no effect of its own in
        the table are left out.
    """
    pairs = _pairs(list(effects.obs_names), effects.uns["samslib"]["separator"])
    X = np.asarray(effects.X)
    seen, additive = X[pairs[:, 0]], X[pairs[:, 1]] + X[pairs[:, 2]]
    residual = seen - additive
    obs = pd.DataFrame(
        {"pearson": _pearson(seen, additive), "rms": np.sqrt((residual**2).mean(1))},
        index=effects.obs_names[pairs[:, 0]],
    )
    layers = {"effect": seen, "additive": additive}
    return anndata.AnnData(residual, obs=obs, var=effects.var.copy(), layers=layers, uns=dict(effects.uns))


def interaction_classes(effects: anndata.AnnData, alike: float = 0.6, part: float = 0.7) -> pd.DataFrame:
    """The kind of interaction of each pair, from s in effect_AB = s (effect_A + effect_B), fitted over genes.

    "redundant": the parts are alike (their cosine is above `alike`) and s is below `part`, so the pair does what one of
    them does. Else "buffering" if the 95% interval of s lies below 1, "synergistic" if above, "additive" if 1 is in it.
    The words are those of Norman et al. 2019, the rule and its limits are ours. The interval allows errors of unequal
    size (White), but takes genes as independent, and noise in the parts pulls s towards 0.

    Parameters
    ----------
    effects
        A table of effects, perturbations x genes, of a model or of cells.
    alike
        Cosine above which two parts count as alike.
    part
        The s below which a pair of such parts is redundant.

    Returns
    -------
    DataFrame
        A row a pair of `interactions`: "s", "low", "high", "cosine" of the parts, "class".
    """
    pairs = _pairs(list(effects.obs_names), effects.uns["samslib"]["separator"])
    X = np.asarray(effects.X)
    y, a, b = X[pairs[:, 0]], X[pairs[:, 1]], X[pairs[:, 2]]
    x = a + b
    s = (x * y).sum(1) / (x * x).sum(1)
    half = 1.96 * np.sqrt(((x * (y - s[:, None] * x)) ** 2).sum(1)) / (x * x).sum(1)
    cosine = _cosine(a, b)
    kinds = np.select(
        [(cosine > alike) & (s < part), s + half < 1, s - half > 1],
        ["redundant", "buffering", "synergistic"],
        "additive",
    )
    columns = {"s": s, "low": s - half, "high": s + half, "cosine": cosine, "class": kinds}
    return pd.DataFrame(columns, index=effects.obs_names[pairs[:, 0]])


def posterior_errors(predicted: anndata.AnnData, observed: anndata.AnnData) -> pd.DataFrame:
    """Errors of predicted effects beside what the posterior and the samples allow for.

    Parameters
    ----------
    predicted
        A table of `posterior_effects`.
    observed
        A table of `data_effects`, of cells that the model has not seen, with at least the same perturbations.

    Returns
    -------
    DataFrame
        A row a perturbation and gene: "error", predicted less observed; "posterior", the posterior variance of the
        effect; "noise", the squared standard errors of observed and predicted effect; "p_noise" and "p_posterior",
        two-sided Normal p-values of the error if noise is all there is, and if posterior (at least 0) and noise add. An
        interval of 95% covers where p is above 0.05. Noise and p are missing where the observed effect has no standard
        error: one cell, or a gene without counts.

    Raises
    ------
    ValueError
        As `effect_scores` does.
    """
    names = _chosen(predicted, observed, list(predicted.obs_names))
    seen, made = observed[names], predicted[names]
    noise = np.asarray(seen.layers["standard_error"]) ** 2
    noise = np.where(noise > 0, noise + np.asarray(made.layers["standard_error"]) ** 2, np.nan)
    posterior, error = np.asarray(made.layers["posterior_variance"]), np.asarray(made.X) - np.asarray(seen.X)
    at = pd.MultiIndex.from_product([names, predicted.var_names], names=["perturbation", "gene"])
    columns = {"error": error, "posterior": posterior, "noise": noise}
    for kind, variance in (("noise", noise), ("posterior", noise + posterior.clip(min=0))):
        columns[f"p_{kind}"] = 2 * ndtr(-np.abs(error) / np.sqrt(variance))
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index=at).reset_index()


def cell_scores(
    generated: anndata.AnnData,
    cells: PerturbationData,
    readout: str = "perturbseq",
    components: int = 50,
    max_cells: int = 500,
    resamples: int = 200,
    level: float = 0.95,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Distances between the distributions of generated and observed cells of each perturbation.

    "energy" is twice the mean distance between the two kinds less the mean distances within each, Euclidean and
    unbiased (Szekely and Rizzo). "mmd" is the squared discrepancy of CPA's code, the sum of 19 kernels exp(-d^2 / 2a),
    biased; there it is taken of latent states. Energy is 0 on average for equal distributions; the biased mmd is above
    0 and falls with cells, so compare equal numbers.

    Parameters
    ----------
    generated
        Cells of `sample_cells`, cells x genes, with obs "perturbation".
    cells
        The observed cells, of the same genes.
    readout
        The function of expression; a name of `READOUTS`.
    components
        Cells are compared by so many of the first singular vectors of their readouts, those of the observed cells.
    max_cells
        Most cells of each kind and perturbation that are compared; drawn at random where there are more.
    resamples
        Number of bootstrap resamples, of observed and generated cells.
    level
        Coverage of the intervals, between 0 and 1.
    seed
        Seed of the choice of cells and of the resamples.

    Returns
    -------
    DataFrame
        Columns perturbation, score, value, low, high as `effect_scores`, with "pooled" the mean over perturbations and
        "median".

    Raises
    ------
    ValueError
        If generated and observed cells share no condition, or have different genes.
    """
    from sklearn.decomposition import TruncatedSVD

    if list(generated.var_names) != list(check_data(cells, "cell_scores").genes):
        raise ValueError("Generated and observed cells have different genes; sample from a model of these data.")
    labels = generated.obs["perturbation"].astype(str).to_numpy()
    names = sorted(set(labels) & set(cells.labels))
    if not names:
        raise ValueError("Generated and observed cells share no condition; see sample_cells.")
    g = readouts(cells, readout)
    X = sp.csr_matrix(generated.X) if cells.counts else np.asarray(generated.X)
    kept = np.asarray(X.sum(1)).ravel() > 0 if cells.counts else np.ones(len(labels), bool)
    drawn = readouts(replace(cells, x=X[kept]), readout)
    basis = TruncatedSVD(min(components, g.shape[1] - 1, g.shape[0] - 1), random_state=0).fit(g)
    observed, simulated = basis.transform(g), basis.transform(drawn)
    rng = np.random.default_rng(seed)
    values, spread = np.empty((2, len(names))), np.empty((2, len(names), resamples))
    for i, name in enumerate(names):
        x, y = observed[cells.labels == name], simulated[labels[kept] == name]
        x, y = (rng.permutation(a)[:max_cells] for a in (x, y))
        values[:, i], spread[:, i] = _distances(x, y, resamples, rng)
    found: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
    for s, score in enumerate(("energy", "mmd")):
        found |= {(name, score): (values[s, i], spread[s, i]) for i, name in enumerate(names)}
        found[POOLED, score] = (float(np.nanmean(values[s])), np.nanmean(spread[s], 0))
        found[MEDIAN, score] = (float(np.nanmedian(values[s])), np.nanmedian(spread[s], 0))
    rows = [(*key, value, *_interval(value, samples, level)) for key, (value, samples) in found.items()]
    return pd.DataFrame(rows, columns=["perturbation", "score", "value", "low", "high"])


@dataclass(frozen=True)
class _View:
    """effect, mean (T, G), variance (T, G) or None, control (G,); unit turns means into natural logarithms."""

    effect: np.ndarray
    mean: np.ndarray
    variance: np.ndarray | None
    control: np.ndarray
    unit: float


def _view(table: anndata.AnnData) -> _View:
    control, effect = table.var["control"].to_numpy(), np.asarray(table.X)
    return _View(effect, control + effect, table.layers.get("variance"), control, _unit(table))


def _view_of(moments: Moments, like: anndata.AnnData) -> _View:
    """Moments of the cells, or of a part of those, that `like` is the table of."""
    mean, variance = moments.mean, moments.variance
    return _View(mean[1:] - mean[0], mean[1:], variance[1:], mean[0], _unit(like))


def _levels(observed: anndata.AnnData) -> list[str]:
    """The covariates within whose levels the effects were taken."""
    return [name for name in observed.uns["samslib"].get("within", "").split(", ") if name]


def _unit(table: anndata.AnnData) -> float:
    return float(np.log(2)) if table.uns["samslib"]["readout"] == "perturbseq" else 1.0


def _chosen(predicted: anndata.AnnData, observed: anndata.AnnData, perturbations: Sequence[str] | None) -> list[str]:
    """Names to be scored: those that both tables have, unless they are named."""
    if list(predicted.var_names) != list(observed.var_names):
        raise ValueError("Predicted and observed effects have different genes; make both from the same data.")
    kinds = [table.uns["samslib"]["readout"] for table in (predicted, observed)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"Predicted effects are of the readout {kinds[0]!r}, observed ones of {kinds[1]!r}.")
    for what, table in (("predicted", predicted), ("observed", observed)):
        for name in perturbations if perturbations is not None else ():
            if name not in table.obs_names:
                raise ValueError(f"There is no {what} effect of {name!r}{did_you_mean(name, list(table.obs_names))}")
    both = [name for name in observed.obs_names if name in predicted.obs_names]
    chosen = both if perturbations is None else [name for name in both if name in set(perturbations)]
    if not chosen:
        raise ValueError("Predicted and observed effects share no perturbation.")
    return chosen


def _pairs(names: Sequence[str], separator: str) -> np.ndarray:
    """(pairs, 3) positions of every pair and of its two parts, as far as all are among the names."""
    where = {name: i for i, name in enumerate(names)}
    found = [
        (i, *(where[part] for part in parts))
        for name, i in where.items()
        if separator and len(parts := name.split(separator)) == 2 and all(part in where for part in parts)
    ]
    return np.array(found, dtype=int).reshape(-1, 3)


def _rows(view: _View, rows: np.ndarray) -> _View:
    variance = None if view.variance is None else view.variance[rows]
    return _View(view.effect[rows], view.mean[rows], variance, view.control, view.unit)


def _scored(
    predicted: Mapping[str, anndata.AnnData],
    observed: anndata.AnnData,
    cells: PerturbationData | None,
    perturbations: Sequence[str] | None,
    resamples: int,
    level: float,
    seed: int,
) -> pd.DataFrame:
    """`effect_scores` of several tables at once, each scored against the same resamples."""
    trials = {name: _Trial.of(table, observed, perturbations) for name, table in predicted.items()}
    values = {name: trial.score(_view(observed)) for name, trial in trials.items()}
    samples: dict[tuple[str, Key], list[float]] = {}
    for resample in _resamples(cells, observed, resamples, seed):
        for name, trial in trials.items():
            for key, value in trial.score(resample).items():
                samples.setdefault((name, key), []).append(value)
    rows = [
        (name, *key, value, *_possible(key[1], _interval(value, np.array(samples.get((name, key), [])), level)))
        for name, found in values.items()
        for key, value in found.items()
    ]
    return pd.DataFrame(rows, columns=["model", "perturbation", "score", "value", "low", "high"])


def _resamples(cells: PerturbationData | None, observed: anndata.AnnData, resamples: int, seed: int) -> Iterator[_View]:
    if cells is None:
        return
    readout, within = observed.uns["samslib"]["readout"], _levels(observed)
    same = data_effects(cells, readout, within=within)
    if list(same.obs_names) != list(observed.obs_names) or not np.allclose(same.X, observed.X, atol=1e-6):
        raise ValueError("`cells` do not have the observed effects; give the cells that `observed` was taken from.")
    for moments in replicates(cells, readout, resamples, within, seed=seed):
        yield _view_of(moments, observed)


@dataclass(frozen=True)
class _Trial:
    """One predicted table, made to lie beside the observed one: rows `at` of that, `chosen` of which are scored."""

    predicted: _View
    at: np.ndarray
    chosen: np.ndarray
    pairs: np.ndarray
    names: list[str]
    many: np.ndarray

    @classmethod
    def of(cls, table: anndata.AnnData, observed: anndata.AnnData, perturbations: Sequence[str] | None) -> _Trial:
        chosen = _chosen(table, observed, perturbations)
        common = [name for name in observed.obs_names if name in table.obs_names]
        at, rows = (of.obs_names.get_indexer(common) for of in (observed, table))
        positions = np.flatnonzero(np.isin(common, chosen))
        many = observed.obs["cells"].to_numpy()[at] > 30 if "cells" in observed.obs else np.ones(len(at), bool)
        separator = observed.uns["samslib"]["separator"]
        return cls(_rows(_view(table), rows), at, positions, _pairs(common, separator), common, many[positions])

    def score(self, observed: _View) -> dict[Key, float]:
        """(perturbation, score) -> value, of what is defined."""
        u, w, chosen = self.predicted, _rows(observed, self.at), self.chosen
        each, flat = _scores(_rows(u, chosen), _rows(w, chosen))
        names = [self.names[i] for i in chosen]
        found = {(n, score): v for score, values in each.items() for n, v in zip(names, values, strict=True)}
        for score, values in each.items():
            kept = values[self.many] if score.startswith("cpa") else values
            found[POOLED, score] = flat.get(score, _mean(kept))
            found[MEDIAN, score] = _median(values)
        pairs = self.pairs[np.isin(self.pairs[:, 0], chosen)]
        if len(pairs):
            a, b = (of.effect[pairs[:, 0]] - of.effect[pairs[:, 1]] - of.effect[pairs[:, 2]] for of in (u, w))
            values = _pearson(a, b)
            found |= {(self.names[i], INTERACTION): v for i, v in zip(pairs[:, 0], values, strict=True)}
            found[POOLED, INTERACTION] = float(_pearson(a.ravel(), b.ravel()))
            found[MEDIAN, INTERACTION] = _median(values)
        return {key: float(value) for key, value in found.items() if np.isfinite(value)}


def _scores(u: _View, w: _View) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """score -> (T,) by perturbation; and the scores that are pooled over all entries at once."""
    order = np.argsort(-np.abs(w.effect), axis=1)[:, :20]
    tops = [np.take_along_axis(of.effect, order, 1) for of in (u, w)]
    each: dict[str, np.ndarray] = {}
    flat: dict[str, float] = {}
    for suffix, (a, b) in {"": (u.effect, w.effect), "_top20": (tops[0], tops[1])}.items():
        each |= {f"pearson{suffix}": _pearson(a, b), f"r2{suffix}": _r2(a, b)}
        flat |= {f"pearson{suffix}": float(_pearson(a.ravel(), b.ravel()))}
        flat |= {f"r2{suffix}": float(_r2(a.ravel(), b.ravel()))}
    each["cosine"], each["rmse"] = _cosine(u.effect, w.effect), _rmse(u.effect, w.effect)
    each |= {f"jaccard_top{k}": _jaccard(u.effect, w.effect, k) for k in (20, 50)}
    average = [of.unit * of.mean for of in (u, w)]
    fold = [np.log2(mean.clip(min=0) + 0.1) - np.log2(w.unit * w.control + 0.1) for mean in average]
    each["rmse_average"], each["cosine_logfc"] = _rmse(*average), _cosine(*fold)
    square = [(mean**2).sum(1) for mean in average]
    each["rank_rmse"] = _rank(square[0][:, None] + square[1] - 2 * average[0] @ average[1].T)
    each["rank_cosine"] = _rank(-_unit_rows(fold[0]) @ _unit_rows(fold[1]).T)
    each["cpa_r2_mean"] = _r2(u.mean, w.mean)
    if u.variance is not None and w.variance is not None:
        each["cpa_r2_variance"] = _r2(u.variance, w.variance)
    return each, flat


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / norms


def _unit_rows(a: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=1, keepdims=True)
    return a / np.where(norms > 0, norms, 1)


def _r2(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    total = ((truth - truth.mean(-1, keepdims=True)) ** 2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - ((truth - predicted) ** 2).sum(-1) / total


def _rmse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).mean(-1))


def _jaccard(a: np.ndarray, b: np.ndarray, top: int) -> np.ndarray:
    k = min(top, a.shape[1])
    inside = np.zeros((2, *a.shape), bool)
    for i, of in enumerate((a, b)):
        np.put_along_axis(inside[i], np.argsort(-np.abs(of), axis=1)[:, :k], True, 1)
    return inside.all(0).sum(1) / inside.any(0).sum(1)


def _rank(distance: np.ndarray) -> np.ndarray:
    """(P,) share of predictions (rows) that are closer to each observation (columns) than its own; ties count half."""
    own, rounding = np.diag(distance), 1e-9 * np.abs(distance).max()
    closer, tied = distance < own - rounding, np.abs(distance - own) <= rounding
    return (closer.sum(0) + 0.5 * (tied.sum(0) - 1)) / len(distance)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan


def _interval(value: float, samples: np.ndarray, level: float) -> tuple[float, float]:
    """Quantiles of the resamples' deviation from their mean, around the value."""
    if not len(samples):
        return np.nan, np.nan
    low, high = value + np.quantile(samples, [(1 - level) / 2, (1 + level) / 2]) - samples.mean()
    return float(low), float(high)


def _possible(score: str, interval: tuple[float, float]) -> tuple[float, float]:
    """An interval within the values that the score can have."""
    bounded = CORRELATIONS + DETERMINATIONS
    low, high = np.clip(interval, None if score in bounded else 0, None if score.startswith("rmse") else 1)
    return float(low), float(high)


def _attainable(score: str, halves: float) -> float:
    """The ceiling of a score from that of one half against the other: see `noise_ceiling`."""
    if score in CORRELATIONS or score in DETERMINATIONS:
        c = max((1 + halves) / 2 if score in DETERMINATIONS else halves, 0)
        reliability = 2 * c / (1 + c)
        return float(reliability if score in DETERMINATIONS else np.sqrt(reliability))
    return halves / 2 if score in ("rmse", "rmse_average") else halves


def _distances(x: np.ndarray, y: np.ndarray, resamples: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(2,) energy distance and mmd of two samples; (2, resamples) both without bias, of resampled cells."""
    if min(len(x), len(y)) < 2:
        return np.full(2, np.nan), np.full((2, resamples), np.nan)
    weights = [rng.multinomial(len(a), np.full(len(a), 1 / len(a)), resamples) / len(a) for a in (x, y)]
    plain = [np.full((1, len(a)), 1 / len(a)) for a in (x, y)]
    blocks = [cdist(a, b) for a, b in ((x, x), (y, y), (x, y))]
    kernels = [sum(np.exp(-(d**2) / (2 * a)) for a in BANDWIDTHS) for d in blocks]
    energy = [-_contrast(blocks, w, unbiased=True) for w in (plain, weights)]
    mmd = [_contrast(kernels, w, unbiased=u) for w, u in ((plain, False), (weights, True))]
    return np.array([energy[0][0], mmd[0][0]]), np.stack([energy[1], mmd[1]])


def _contrast(blocks: list[np.ndarray], weights: list[np.ndarray], unbiased: bool) -> np.ndarray:
    """(resamples,) mean within x + mean within y - 2 mean between; unbiased: without pairs of a cell with itself."""
    total = -2 * ((weights[0] @ blocks[2]) * weights[1]).sum(1)
    for block, w in zip(blocks[:2], weights, strict=True):
        within = ((w @ block) * w).sum(1)
        if unbiased:
            same = (w**2).sum(1)
            within = (within - (w**2) @ np.diag(block)) / (1 - same)
        total = total + within
    return total
