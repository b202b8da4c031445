"""Scores of predicted effects and cells against observed ones, with intervals over cells and a noise ceiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import anndata
import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from samslib.data.container import PerturbationData, Split, check_data, split_labels
from samslib.data.messages import did_you_mean
from samslib.evaluate.observed import Moments, data_effects, halves, readouts, reference_cells, replicates
from samslib.evaluate.predictors import predictors
from samslib.evaluate.tables import Groups
from samslib.validation import choose, left_out, require

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
    return _scored({"": predicted}, observed, cells, perturbations, resamples, level, seed).drop(columns="model")


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
    few = observed.obs_names[observed.obs["cells"] < 2]
    score = _scorer(observed, observed, [name for name in names if name not in few])
    found = pd.concat([score(*pair) for pair in halves(cells, readout, repeats, within, seed=seed)], axis=1)
    mean = found.mean(axis=1).dropna()
    kind = mean.index.get_level_values("score")
    r2 = kind.isin(DETERMINATIONS)
    c = mean.where(~r2, (1 + mean) / 2).clip(lower=0)
    reliability = 2 * c / (1 + c)
    ceiling = mean.where(~kind.str.startswith("rmse"), mean / 2).where(~r2, reliability)
    return ceiling.where(~kind.isin(CORRELATIONS), np.sqrt(reliability)).rename("ceiling").reset_index()


def score_table(
    predicted: Mapping[str, anndata.AnnData],
    data: PerturbationData,
    split: Split,
    part: str = "test",
    readout: str = "perturbseq",
    controls: str | None = None,
    data_only: bool = True,
    resamples: int = 200,
    references: Sequence[str] = ("all cells", "held out"),
    gene_of: Groups = None,
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
        The gene that each guide targets (guide -> gene, or a function of the guide's name), for the predictors that
        pool the guides of a gene. None: the targets of the data; if there are none, without these predictors.
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
    choose("part", part, ("train", "val", "test"))
    labels = split_labels(check_data(data, "score_table"), split)
    inside = data[labels == part]
    names = sorted(set(inside.labels[inside.n_perturbations > 0]))
    if "held out" not in references:
        left_out("only the reference 'held out' chooses controls", controls=controls)
    controls = controls or ("same" if (inside.n_perturbations == 0).any() else "val")
    tables = dict(predicted)
    if data_only:
        made = predictors(data[labels == "train"], data[labels == "val"], data, None, readout, gene_of, within)
        tables |= {f"data: {name}": table for name, table in made.items()}
    parts = {}
    for reference in references:
        choose("reference", reference, ("all cells", "held out"))
        cells = data if reference == "all cells" else reference_cells(data, part, labels, controls)
        scored = _scored(tables, data_effects(cells, readout, within=within), cells, names, resamples, 0.95, seed)
        ceiling = noise_ceiling(cells, readout, names, seed=seed, within=within)
        parts[reference] = scored.merge(ceiling, how="left", on=["perturbation", "score"])
    table = pd.concat(parts, names=["reference", None]).reset_index(0).reset_index(drop=True)
    table = table.merge(_noise(tables, names), how="left", on=["model", "perturbation"])
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
    pairs = _pairs(effects)
    seen, first, second = np.asarray(effects.X)[pairs.to_numpy(int)]
    additive = first + second
    obs = pd.DataFrame({"pearson": _pearson(seen, additive), "rms": _rmse(seen, additive)}, index=pairs.columns)
    layers = {"effect": seen, "additive": additive}
    return anndata.AnnData(seen - additive, obs=obs, var=effects.var.copy(), layers=layers, uns=dict(effects.uns))


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
    pairs = _pairs(effects)
    y, a, b = np.asarray(effects.X)[pairs.to_numpy(int)]
    x = a + b
    s = (x * y).sum(1) / (x * x).sum(1)
    half = 1.96 * np.sqrt(((x * (y - s[:, None] * x)) ** 2).sum(1)) / (x * x).sum(1)
    cosine = _cosine(a, b)
    kinds = {"redundant": (cosine > alike) & (s < part), "buffering": s + half < 1, "synergistic": s - half > 1}
    named = np.select(list(kinds.values()), list(kinds), "additive")
    columns = {"s": s, "low": s - half, "high": s + half, "cosine": cosine, "class": named}
    return pd.DataFrame(columns, index=pairs.columns)


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
    made, seen = predicted[names], observed[names]
    noise = seen.to_df("standard_error") ** 2
    noise = noise.where(noise > 0) + made.to_df("standard_error") ** 2
    columns = {"error": made.to_df() - seen.to_df(), "posterior": made.to_df("posterior_variance"), "noise": noise}
    for kind, variance in {"noise": noise, "posterior": noise + columns["posterior"].clip(lower=0)}.items():
        columns[f"p_{kind}"] = 2 * ndtr(-columns["error"].abs() / np.sqrt(variance))
    return pd.concat(columns, axis=1).stack(future_stack=True).rename_axis(["perturbation", "gene"]).reset_index()


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

    same = list(generated.var_names) == list(check_data(cells, "cell_scores").genes)
    require(same, "Generated and observed cells have different genes; sample from a model of these data.")
    labels = generated.obs["perturbation"].astype(str).to_numpy()
    names = sorted(set(labels) & set(cells.labels))
    require(names, "Generated and observed cells share no condition; see sample_cells.")
    g = readouts(cells, readout)
    kept = np.asarray(generated.X.sum(1)).ravel() > 0 if cells.counts else np.ones(len(labels), bool)
    drawn = readouts(replace(cells, x=generated.X[kept]), readout)
    basis = TruncatedSVD(min(components, g.shape[1] - 1, g.shape[0] - 1), random_state=0).fit(g)
    observed, simulated = basis.transform(g), basis.transform(drawn)
    rng = np.random.default_rng(seed)
    pairs = ((observed[cells.labels == name], simulated[labels[kept] == name]) for name in names)
    each = [_distances([rng.permutation(of)[:max_cells] for of in pair], resamples, rng) for pair in pairs]
    scores = np.stack([*each, np.nanmean(each, 0), np.nanmedian(each, 0)])
    keys = pd.MultiIndex.from_product([(*names, POOLED, MEDIAN), ("energy", "mmd")], names=["perturbation", "score"])
    return _with_intervals(pd.DataFrame(scores.reshape(len(keys), -1), keys), level)


def _moments(table: anndata.AnnData) -> Moments:
    """Those of which the table has the effects, the variances missing where it has none."""
    control = table.var[["control", "control_variance"]].to_numpy().T
    arms = control[0] + table.X, table.layers.get("variance", np.full(table.shape, np.nan))
    mean, variance = (np.vstack(rows) for rows in zip(control, arms, strict=True))
    return Moments(mean, variance, *np.full((2, len(mean)), np.nan))  # no score is of sizes or errors


def _samples(cells, observed, resamples, seed) -> Iterator[Moments]:
    """Of the observed table and then of resamples of its cells, if they are given."""
    yield _moments(observed)
    if cells is not None:
        settings = observed.uns["samslib"]
        within = [name for name in settings.get("within", "").split(", ") if name]
        same = data_effects(cells, settings["readout"], within=within)
        if list(same.obs_names) != list(observed.obs_names) or not np.allclose(same.X, observed.X, atol=1e-6):
            raise ValueError("`cells` do not have the observed effects; give the cells that `observed` was taken from.")
        yield from replicates(cells, settings["readout"], resamples, within, seed=seed)


def _chosen(predicted: anndata.AnnData, observed: anndata.AnnData, perturbations: Sequence[str] | None) -> list[str]:
    """Names to be scored: those that both tables have, unless they are named."""
    same = list(predicted.var_names) == list(observed.var_names)
    require(same, "Predicted and observed effects have different genes; make both from the same data.")
    kinds = [table.uns["samslib"]["readout"] for table in (predicted, observed)]
    require(kinds[0] == kinds[1], f"Predicted effects are of the readout {kinds[0]!r}, observed ones of {kinds[1]!r}.")
    both = observed.obs_names[observed.obs_names.isin(predicted.obs_names)]
    asked = both if perturbations is None else perturbations
    for what, table in {"predicted": predicted, "observed": observed}.items():
        if unknown := [name for name in asked if name not in table.obs_names]:
            raise ValueError(f"There is no {what} effect of {unknown[0]!r}{did_you_mean(unknown[0], table.obs_names)}")
    require(len(asked), "Predicted and observed effects share no perturbation.")
    return list(both[both.isin(asked)])


def _pairs(effects: anndata.AnnData) -> pd.DataFrame:
    """A column a pair: the rows of the pair, its first and its second part, as far as the table has all three."""
    names, separator = effects.obs_names, effects.uns["samslib"]["separator"]
    parts = {name: name.split(separator) for name in names if separator}
    rows = {name: names.get_indexer([name, *of]) for name, of in parts.items() if len(of) == 2}
    found = {name: at for name, at in rows.items() if (at >= 0).all()}
    return pd.DataFrame(found, index=["pair", "first", "second"]).rename_axis(columns=names.name)


def _scored(predicted, observed, cells, perturbations, resamples, level, seed) -> pd.DataFrame:
    """`effect_scores` of several tables at once, each scored against the same resamples."""
    scorers = {name: (_scorer(table, observed, perturbations), _moments(table)) for name, table in predicted.items()}
    levels, scores = ["model", "perturbation", "score"], []
    for w in _samples(cells, observed, resamples, seed):
        scores.append(pd.concat({name: score(u, w) for name, (score, u) in scorers.items()}, names=levels))
    table = _with_intervals(pd.concat(scores, axis=1), level).dropna(subset="value", ignore_index=True)
    least = np.where(table["score"].isin(CORRELATIONS + DETERMINATIONS), -np.inf, 0)
    most = np.where(table["score"].str.startswith("rmse"), np.inf, 1)
    return table.assign(**{side: table[side].clip(least, most) for side in ("low", "high")})


def _scorer(predicted, observed, perturbations) -> Callable[[Moments, Moments], pd.Series]:
    """A function from moments with the rows of the two tables to their scores, missing where undefined."""
    names = _chosen(predicted, observed, perturbations)
    at, observed_at = (1 + table.obs_names.get_indexer(names) for table in (predicted, observed))
    pairs = [_pairs(table) for table in (predicted, observed)]
    both = [name for name in names if all(name in of for of in pairs)]
    parts = [1 + of[both].to_numpy(int) for of in pairs]
    unit = np.log(2) if observed.uns["samslib"]["readout"] == "perturbseq" else 1.0  # to natural logarithms
    cells = observed.obs.get("cells", pd.Series(np.inf, observed.obs_names))[names]

    def score(u: Moments, w: Moments) -> pd.Series:
        means, variances = [(u[i][at], w[i][observed_at]) for i in (0, 1)]
        each, flat = _scores_of_effects(means[0] - u.mean[0], means[1] - w.mean[0])
        each |= _scores_of_averages(*(unit * of for of in (*means, w.mean[0])))
        each |= {"cpa_r2_mean": _r2(*means), "cpa_r2_variance": _r2(*variances)}
        table = pd.DataFrame(each, index=names)
        if both:
            residuals = [np.subtract.reduce(of.mean[rows] - of.mean[0]) for of, rows in zip((u, w), parts, strict=True)]
            table[INTERACTION] = pd.Series(_pearson(*residuals), both)
            flat[INTERACTION] = _pearson(*map(np.ravel, residuals))
        pooled = table.mask(np.outer(cells <= 30, table.columns.str.startswith("cpa"))).mean().to_dict() | flat
        table = pd.concat([table, pd.DataFrame({POOLED: pooled, MEDIAN: table.median()}).T]).replace(-np.inf, np.nan)
        return table.rename_axis(index="perturbation", columns="score").stack(future_stack=True)

    return score


def _scores_of_effects(u: np.ndarray, w: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """score -> (T,) by perturbation; and the scores that are pooled over all entries at once."""
    places = [np.argsort(np.argsort(-np.abs(of))) for of in (u, w)]  # of each gene, by size
    cuts = {"": [u, w], "_top20": [of[places[1] < 20].reshape(len(of), -1) for of in (u, w)]}
    kinds = {"pearson": _pearson, "r2": _r2}
    each = {name + cut: kinds[name](*cuts[cut]) for cut, name in product(cuts, kinds)}
    flat = {name + cut: kinds[name](*map(np.ravel, cuts[cut])) for cut, name in product(cuts, kinds)}
    each |= {"cosine": _cosine(u, w), "rmse": _rmse(u, w)}
    for k in (20, 50):
        a, b = (place < k for place in places)
        each[f"jaccard_top{k}"] = (a & b).sum(1) / (a | b).sum(1)
    return each, flat


def _scores_of_averages(u: np.ndarray, w: np.ndarray, control: np.ndarray) -> dict[str, np.ndarray]:
    """score -> (T,), of means of log(1 + x)."""
    fold = [np.log2(mean.clip(min=0) + 0.1) - np.log2(control + 0.1) for mean in (u, w)]
    direction = [np.nan_to_num(_unit(of)) for of in fold]
    scores = {"rmse_average": _rmse(u, w), "cosine_logfc": _cosine(*fold)}
    square = (u**2).sum(1)[:, None] + (w**2).sum(1) - 2 * u @ w.T
    return scores | {"rank_rmse": _rank(square), "rank_cosine": _rank(-direction[0] @ direction[1].T)}


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (_unit(a) * _unit(b)).sum(-1)


@np.errstate(invalid="ignore")
def _unit(a: np.ndarray) -> np.ndarray:
    """Rows of length 1, missing where they are zero."""
    return a / np.linalg.norm(a, axis=-1, keepdims=True)


@np.errstate(invalid="ignore", divide="ignore")
def _r2(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return 1 - ((truth - predicted) ** 2).sum(-1) / ((truth - truth.mean(-1, keepdims=True)) ** 2).sum(-1)


def _rmse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(((a - b) ** 2).mean(-1))


def _rank(distance: np.ndarray) -> np.ndarray:
    """(P,) share of predictions (rows) that are closer to each observation (columns) than its own; ties count half."""
    own, rounding = np.diag(distance), 1e-9 * np.abs(distance).max()
    closer, tied = distance < own - rounding, np.abs(distance - own) <= rounding
    return (closer.sum(0) + 0.5 * (tied.sum(0) - 1)) / len(distance)


def _with_intervals(scores: pd.DataFrame, level: float) -> pd.DataFrame:
    """Columns value, low and high of scores (rows) in all cells (first column) and in resamples (others): around the
    value, the quantiles of the resamples' deviation from their mean."""
    value, samples = scores.iloc[:, 0], scores.iloc[:, 1:]
    low, high = (value + samples.quantile((1 + side * level) / 2, axis=1) - samples.mean(axis=1) for side in (-1, 1))
    return pd.DataFrame({"value": value, "low": low, "high": high}).reset_index()


def _distances(samples: list[np.ndarray], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(2, 1 + resamples) energy distance and mmd of two samples, and then both without bias, of resampled cells."""
    if min(map(len, samples)) < 2:
        return np.full((2, 1 + resamples), np.nan)
    equal = [np.full((1, len(a)), 1 / len(a)) for a in samples]
    weights = [np.vstack([of, rng.multinomial(of.size, of[0], resamples) / of.size]) for of in equal]
    distances = [cdist(samples[i], samples[j]) for i, j in ((0, 0), (1, 1), (0, 1))]
    kernels = [sum(np.exp(-(d**2) / (2 * a)) for a in BANDWIDTHS) for d in distances]
    (_, energy), (biased, mmd) = (_contrasts(blocks, weights) for blocks in (distances, kernels))
    return np.stack([-energy, np.r_[biased[:1], mmd[1:]]])


def _contrasts(blocks: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(resamples,) mean within x + mean within y - 2 mean between; with and without pairs of a cell with itself."""
    biased = unbiased = -2 * ((weights[0] @ blocks[2]) * weights[1]).sum(1)
    for block, w in zip(blocks[:2], weights, strict=True):
        within = ((w @ block) * w).sum(1)
        biased, unbiased = biased + within, unbiased + (within - w**2 @ np.diag(block)) / (1 - (w**2).sum(1))
    return biased, unbiased
