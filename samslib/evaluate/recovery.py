"""What a model has learned beside a known truth: masks, effects, latents.

A function of a single score returns it as a float, as those of scikit-learn do; one of several a DataFrame of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy, rankdata
from sklearn import linear_model, model_selection
from sklearn.ensemble import RandomForestRegressor

from samslib.evaluate.streams import evaluating
from samslib.model import Model
from samslib.trace import Trace
from samslib.validation import above, at_least, choose, require, share, whole


def shared_latents(model: Model, particles: int = 100, *, seed: int = 0) -> anndata.AnnData:
    """Posterior means of what perturbations do in latent space.

    Parameters
    ----------
    model
        A trained model.
    particles
        Number of draws of masks and embeddings.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        Perturbations x latent axes. X is E[M * E] (E[E] for a model without masks); layers "M" (mask probability),
        "E" (mean of q(E | M) averaged over masks) and "E_given_M" (mean of E over the draws whose mask is on,
        missing where none is), as far as the model has them. Where each cell draws its own mask, its probability
        stands for M. uns["samslib"] has the settings.

    Raises
    ------
    ValueError
        For a model that shares no latents between cells.
    """
    with evaluating(model, seed):
        t = Trace(particles)
        model.infer_shared(t)
        sites = {"M": t.sites.get("M", t.sites.get("pi")), "E": t.sites.get("E")}
        found = {name: site for name, site in sites.items() if site}
        require(found, f"{type(model).__name__} shares no latents between cells; use average_effects.")
        means = {name: site.distribution.mean.expand(site.value.shape).mean(0) for name, site in found.items()}
        product = torch.stack([site.value for site in found.values()]).prod(0).mean(0)
        given = {"E_given_M": product / found["M"].value.mean(0)} if len(found) == 2 else {}
    names, axes = model.summary.perturbations, [f"axis_{k}" for k in range(product.shape[1])]
    obs, var = pd.Index(names, name="perturbation").to_frame(), pd.Index(axes, name="axis").to_frame()
    arrays = {name: value.cpu().numpy() for name, value in (means | given).items()}
    settings = {"model": type(model).__name__, "particles": particles, "seed": seed}
    return anndata.AnnData(product.cpu().numpy(), obs[[]], var[[]], layers=arrays, uns={"samslib": settings})


@torch.no_grad()
def direct_effects(model: Model, threshold: float = 0.5) -> pd.DataFrame:
    """The genes that each target acts on itself and not through the latent axes.

    Parameters
    ----------
    model
        A trained model with the option `direct`.
    threshold
        Probability above which an effect is listed, between 0 (all) and 1.

    Returns
    -------
    DataFrame
        A row an effect, targets in their order and the most probable first: "target", which is the perturbation itself
        in a model without targets; "gene"; "probability", that M_direct is 1; "effect" and "sd", mean and standard
        deviation of O if it is, on the scale of natural logarithms of expression for counts. A guide of strength a has
        a times the effect.

    Raises
    ------
    ValueError
        For a model without direct effects, and for a threshold outside 0 to 1.
    """
    share(threshold=threshold)
    part: Any = getattr(model, "direct", None)
    require(
        part is not None, f"{type(model).__name__} has no direct effects; make a SAMSVAE or CPAVAE with direct=True."
    )
    law, probability, summary = part.slab(slice(None)), part.logits.sigmoid(), model.summary
    names = summary.rows if len(law.loc) == len(summary.rows) else summary.perturbations
    keys = pd.MultiIndex.from_product([range(len(names)), summary.genes], names=["target", "gene"])
    columns = {"probability": probability, "effect": law.loc, "sd": law.scale}
    table = pd.DataFrame({name: of.flatten().cpu().numpy() for name, of in columns.items()}, keys).reset_index()
    table = table[table["probability"] > threshold].sort_values(["target", "probability"], ascending=[True, False])
    return table.assign(target=np.array(names, dtype=object)[table["target"]]).reset_index(drop=True)


@torch.no_grad()
def guide_strengths(model: Model, level: float = 0.95) -> pd.DataFrame:
    """How strong each guide of a target is.

    A target's effects and the strengths of its guides are known as products only; the prior of a strength, whose median
    is 1, sets the scale. So compare guides of one target.

    Parameters
    ----------
    model
        A trained SAMSVAE of data with targets.
    level
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    DataFrame
        A row a guide: "guide", "target", "strength" (median of the posterior), "low" and "high" (its quantiles).

    Raises
    ------
    ValueError
        For a model without strengths, and for a level outside 0 to 1.
    """
    above(0, 1, level=level)
    part: Any = getattr(model, "log_strength", None)
    remedy = "make a SAMSVAE of data with targets, from_anndata(target=)"
    require(part is not None, f"{type(model).__name__} has no strengths of guides; {remedy}.")
    law, names = part(slice(None)), {"guide": model.summary.perturbations, "target": model.summary.targets}
    quantiles = {"strength": 0.5, "low": (1 - level) / 2, "high": (1 + level) / 2}
    values = {name: law.icdf(law.loc.new_tensor(at)).exp().flatten().cpu() for name, at in quantiles.items()}
    return pd.DataFrame({**names, **values})


def dose_curves(
    model: Model, doses: Sequence[float], level: float = 0.9, draws: int = 1000, *, seed: int = 0
) -> pd.DataFrame:
    """The share f_t of its effect that each perturbation has at some doses, with how uncertain the posterior leaves it.

    Parameters
    ----------
    model
        A trained SAMSVAE with a `dose_curve` other than "linear".
    doses
        Doses in the units of the data, seen or not, 0 or above.
    level
        Coverage of the interval by the posterior, between 0 and 1.
    draws
        Number of draws of the curves.
    seed
        Seed of the draws.

    Returns
    -------
    DataFrame
        A row a perturbation and dose: "perturbation", "dose", "share" (median; 1 at the largest training dose), "low"
        and "high" (quantiles).

    Raises
    ------
    ValueError
        For a model without inferred curves, a negative dose, and a level outside 0 to 1.
    """
    above(0, 1, level=level)
    part: Any = getattr(model, "dose_curves", None)
    remedy = "make a SAMSVAE with dose_curve='logsigmoid'"
    require(getattr(part, "table", None), f"{type(model).__name__} has no inferred dose curves; {remedy}.")
    t, names = Trace(whole("draws", draws, 1)), model.summary.perturbations
    with evaluating(model, seed) as like:
        part.infer(t)
        f = part(t, like.new_tensor(doses)[:, None].expand(-1, len(names))).mT  # (draws, T, doses)
    table = pd.MultiIndex.from_product([names, doses], names=["perturbation", "dose"]).to_frame(index=False)
    for name, at in {"share": 0.5, "low": (1 - level) / 2, "high": (1 + level) / 2}.items():
        table[name] = f.quantile(at, dim=0).flatten().cpu().numpy()
    return table


@torch.no_grad()
def interaction_table(model: Model, level: float = 0.1, smallest: float = 2.0) -> pd.DataFrame:
    """Which pairs of perturbations do more, or less, than add up in latent space.

    The decision bounds the false discoveries that the posterior itself expects: pairs are called from the most probable
    one down, as long as the mean of 1 - probability over those called is at most `level`. The posterior does not know
    that its decoder is imperfect, which lets some additive pairs look like small interactions; so small ones are not
    called. What is left of false discoveries was measured on screens with a known truth (`further-epistasis`).

    Parameters
    ----------
    model
        A trained SAMSVAE with the option `interactions`.
    level
        Largest expected share of false ones among the pairs called, between 0 and 1.
    smallest
        Smallest size of an interaction that is called, in standard deviations of z_basal; 0 for any size.

    Returns
    -------
    DataFrame
        A row a pair seen in training, the most probable first: "first" and "second", its perturbations; "probability",
        that the pair interacts along the axis where it most probably does, and so no more than that it does at all;
        "axes", the number of axes along which it does with a probability above one half; "size", the length of the mean
        shift, in standard deviations of z_basal; "called".

    Raises
    ------
    ValueError
        For a model without interactions, a level outside 0 to 1, and a negative size.
    """
    above(0, 1, level=level)
    at_least(0, smallest=smallest)
    part: Any = getattr(model, "interactions", None)
    text = f"{type(model).__name__} has no interactions; make a SAMSVAE of data with pairs, with interactions=True."
    require(part is not None, text)
    on, names = part.effects.logits.sigmoid(), np.array(model.summary.perturbations, dtype=object)
    columns = {"probability": on.amax(1), "axes": (on > 0.5).sum(1)}
    columns["size"] = (on * part.effects.slab.loc).norm(dim=1)
    table = pd.DataFrame({name: of.cpu().numpy() for name, of in columns.items()})
    for place, name in enumerate(("first", "second")):
        table.insert(place, name, names[part.pairs[place].cpu()])
    table = table.sort_values("probability", ascending=False, ignore_index=True)
    error = (1 - table["probability"]).where(table["size"] >= smallest)
    return table.assign(called=error.notna() & (error.expanding().mean() <= level))


def mask_recovery(truth: np.ndarray, inferred: np.ndarray) -> pd.DataFrame:
    """Precision, recall and F1 of an inferred mask against the true one.

    Latent axes have no order, so they are matched one to one to maximise the number of entries that are on in both
    (optimal assignment).

    Parameters
    ----------
    truth
        (T, K) true mask of T perturbations.
    inferred
        (T, K') inferred mask or its probabilities. An entry is on above one half.

    Returns
    -------
    DataFrame
        One row: "precision", "recall", "f1".
    """
    true, found = np.asarray(truth) != 0, np.asarray(inferred) > 0.5
    both = true.T.astype(float) @ found
    hits = both[linear_sum_assignment(both, maximize=True)].sum()
    entries = {"precision": found.sum(), "recall": true.sum(), "f1": (found.sum() + true.sum()) / 2}
    return pd.DataFrame([{score: hits / max(count, 1) for score, count in entries.items()}])


def effect_recovery(truth: np.ndarray, inferred: np.ndarray) -> float:
    """Mean absolute correlation of inferred and true latent effects, axes matched; see `mean_correlation`.

    Parameters
    ----------
    truth
        (T, K) true effects of T perturbations.
    inferred
        (T, K') inferred effects.

    Returns
    -------
    float
        Between 0 and 1, which is best.
    """
    return mean_correlation(truth, inferred)


def mean_correlation(truth: np.ndarray, inferred: np.ndarray, method: str = "pearson") -> float:
    """Mean absolute correlation (MCC) between matched columns of true and inferred latents.

    Axes are matched one to one to maximise it (optimal assignment), because neither their order nor their sign is
    identified. A true axis that never varies is left out; one without a partner counts as 0.

    Parameters
    ----------
    truth
        (n, K) true latents.
    inferred
        (n, K') inferred latents of the same rows.
    method
        "pearson", or "spearman" for agreement up to a monotone change of each axis.

    Returns
    -------
    float
        Between 0 and 1, which is best.

    Raises
    ------
    ValueError
        For tables of other lengths, missing values or an unknown method.

    References
    ----------
    Lachapelle et al. (2022), Disentanglement via mechanism sparsity regularization.
    """
    true, found = _paired(truth, inferred)
    if choose("method", method, {"pearson": False, "spearman": True}):
        true, found = rankdata(true, axis=0), rankdata(found, axis=0)
    correlation = np.abs(_correlations(true, found))
    return float(correlation[linear_sum_assignment(correlation, maximize=True)].sum() / max(true.shape[1], 1))


def match_axes(truth: np.ndarray, inferred: np.ndarray) -> np.ndarray:
    """Inferred latents with their axes in the order and sign of the true ones, to be shown beside these.

    Axes are matched as in `mean_correlation`.

    Parameters
    ----------
    truth
        (n, K) true latents, such as effects of n perturbations.
    inferred
        (n, K') inferred latents of the same rows.

    Returns
    -------
    array
        (n, max(K, K')). Inferred axes without a partner come last; a true one without a partner has zeros.

    Raises
    ------
    ValueError
        For tables of other lengths or missing values.
    """
    _, found = _paired(truth, inferred)
    true = np.asarray(truth, dtype=float)
    correlation = _correlations(true, found)
    rows, columns = linear_sum_assignment(np.abs(correlation), maximize=True)
    made = np.zeros((len(true), max(true.shape[1], found.shape[1])))
    made[:, rows] = found[:, columns] * np.where(correlation[rows, columns] < 0, -1, 1)
    alone = np.setdiff1d(np.arange(found.shape[1]), columns)
    made[:, true.shape[1] : true.shape[1] + len(alone)] = found[:, alone]
    return made


def linear_r2(truth: np.ndarray, inferred: np.ndarray) -> float:
    """R2 of the true latents by least squares on the inferred ones, mean over true axes.

    Fitted and scored on the same rows, as published, so n should be far above K'.

    Parameters
    ----------
    truth
        (n, K) true latents of n cells.
    inferred
        (n, K') inferred latents of the same cells.

    Returns
    -------
    float
        At most 1, which is best.

    Raises
    ------
    ValueError
        For tables of other lengths, missing values, or if no true axis varies.

    References
    ----------
    Lopez et al. (2023), Learning causal representations of single cells via sparse mechanism shift modeling.
    """
    true, found = _paired(truth, inferred)
    require(true.shape[1], "No true axis varies, so there is nothing to explain; give more rows.")
    return float(linear_model.LinearRegression().fit(found, true).score(found, true))


def dci(truth: np.ndarray, inferred: np.ndarray, trees: int = 20, *, seed: int = 0) -> pd.DataFrame:
    """Disentanglement, completeness and informativeness of inferred latents.

    R (K', K) holds how much each inferred axis matters in a random forest that predicts each true axis (leaves of five
    rows; its impurity-based importance, one of the paper's two choices). Disentanglement of an inferred axis is 1 minus
    the entropy, to base K, of its row of R made to sum to 1: does it tell of one true axis only? Averaged with the
    axes' shares of R as weights, so that unused ones do not count. Completeness of a true axis is the same of its
    column, to base K': is it told by one inferred axis only? Averaged over true axes. Informativeness is the R2 of the
    predictions on the quarter of the rows that the forest was not fitted to, mean over true axes; the paper gives the
    error, the square root of 1 - R2.

    True axes that never vary are left out.

    Parameters
    ----------
    truth
        (n, K) true latents of n cells.
    inferred
        (n, K') inferred latents of the same cells.
    trees
        Number of trees of each forest.
    seed
        Seed of the forests and of the choice of the rows held out.

    Returns
    -------
    DataFrame
        One row: "disentanglement", "completeness", "informativeness"; 1 is best in each.

    Raises
    ------
    ValueError
        For tables of other lengths, missing values, or fewer than two axes on a side (their entropy has no base).

    References
    ----------
    Eastwood and Williams (2018), A framework for the quantitative evaluation of disentangled representations.
    """
    true, found = _paired(truth, inferred)
    sizes = f"{true.shape[1]} true and {found.shape[1]} inferred axes"
    require(min(true.shape[1], found.shape[1]) > 1, f"DCI of {sizes}; at least two that vary are needed on each side.")
    x, x_test, y, y_test = model_selection.train_test_split(found, true, random_state=seed)
    forests = [RandomForestRegressor(trees, min_samples_leaf=5, random_state=seed).fit(x, column) for column in y.T]
    importance = np.stack([forest.feature_importances_ for forest in forests], 1)
    scores = [forest.score(x_test, column) for forest, column in zip(forests, y_test.T, strict=True)]
    row = dict(zip(("disentanglement", "completeness"), _purity(importance), strict=True))
    return pd.DataFrame([row | {"informativeness": np.mean(scores)}])


def latent_recovery(truth: np.ndarray, inferred: np.ndarray, *, seed: int = 0) -> pd.DataFrame:
    """Every score of inferred latents against the true ones, in one row.

    Parameters
    ----------
    truth
        (n, K) true latents of n cells.
    inferred
        (n, K') inferred latents of the same cells.
    seed
        Seed of the forests of `dci`.

    Returns
    -------
    DataFrame
        One row: "mcc", "mcc_spearman" (`mean_correlation`), "linear_r2", and the columns of `dci`.

    Raises
    ------
    ValueError
        As these functions do.
    """
    mcc = {"mcc": mean_correlation(truth, inferred), "mcc_spearman": mean_correlation(truth, inferred, "spearman")}
    return pd.DataFrame([mcc | {"linear_r2": linear_r2(truth, inferred)}]).join(dci(truth, inferred, seed=seed))


def _correlations(true: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Of each true column with each found one; 0 where one never varies."""
    centred = [(a - a.mean(0)) / np.where(a.std(0) > 0, a.std(0), np.inf) for a in (true, found)]
    return centred[0].T @ centred[1] / len(true)


def _paired(truth: np.ndarray, inferred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as floats, the true axes that vary only."""
    true, found = (np.asarray(a, dtype=float) for a in (truth, inferred))
    shapes = f"The true latents are {true.shape}, the inferred ones {found.shape}"
    require(true.ndim == found.ndim == 2 and len(true) == len(found), f"{shapes}; give tables with the same rows.")
    require(np.isfinite(true).all() and np.isfinite(found).all(), "The latents have missing values; drop these rows.")
    return true[:, true.std(0) > 0], found


def _purity(importance: np.ndarray) -> tuple[float, float]:
    """Disentanglement and completeness of (K', K) importances."""
    used = importance.sum(1) / (importance.sum() or 1)  # no importance at all: both are 0
    purity = [1 - np.nan_to_num(entropy(of, base=of.shape[1], axis=1), nan=1) for of in (importance, importance.T)]
    return float(used @ purity[0]), float(purity[1].mean())
