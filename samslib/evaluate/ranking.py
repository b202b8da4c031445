"""Which perturbations have an effect: a ranked list, with tests of controls against controls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, norm

from samslib.data.container import PerturbationData, check_data
from samslib.evaluate.observed import conditions, data_effects, readouts, replicates, strata
from samslib.evaluate.tables import by_target
from samslib.validation import DataError, above, require, whole

REPLICATES = 200  # bootstrap resamples of cells, for the intervals of sizes
FEW = 10  # cells: with fewer, most effects go unseen, and sizes are rough


def rank_perturbations(
    data: PerturbationData,
    effects: anndata.AnnData | None = None,
    readout: str = "perturbseq",
    within: str | Sequence[str] = (),
    targets: bool = False,
    resamples: int = 2000,
    level: float = 0.95,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Which perturbations have an effect, the surest first, from the cells alone; and what a model says of them.

    With w the observed effect on a gene and v the variance between cells of a condition, pooled over conditions, the
    test's statistic is the sum of w^2 / v over genes. Its null: as many control cells as the perturbation has are drawn
    without replacement and compared with the controls that are left. Each such effect is multiplied by
    sqrt((1/n + 1/N) / (1/n + 1/(N - n))), for the real one is against all N controls. Where n is above N / 2, N / 2
    are drawn, and the effect is scaled down to n. p is the share of null statistics that are at least as large, the
    observed one counted among them, and "fdr" is p by Benjamini and Hochberg over all rows.

    Cells are taken as independent: differences between batches or clones that follow a perturbation count as its
    effect, unless `within` names them. p cannot be below 1 / (resamples + 1).

    Parameters
    ----------
    data
        All cells, in memory, with controls.
    effects
        Table of a model's effects of the same genes and readout, in the form of `average_effects`. None: no columns of
        a model.
    readout
        The function of expression; a name of `READOUTS`.
    within
        Covariates within whose levels cells are compared and controls drawn, as in `data_effects`.
    targets
        Whether rows are targets, over all cells of their guides, where the data have targets; by default guides.
    resamples
        Number of draws of controls.
    level
        Coverage of the interval of the size, between 0 and 1.
    seed
        Seed of all draws.

    Returns
    -------
    DataFrame
        A row a perturbation or target, sorted by p and then size: "cells"; "size", the root of the mean over genes of
        (w^2 - its squared standard error) / v, in standard deviations between cells and without noise on average, with
        its interval "low" to "high" (Normal, by a bootstrap of cells less the noise that it counts twice; 0 at least);
        "p", "fdr"; "few_cells", whether there are fewer than 10, and "few_controls", whether the controls of some level
        are fewer than twice its cells, so that the null is scaled and p less exact (in null screens of 40 cells and 60
        controls 6.5% were below 0.05). With `effects` also "model_size", the same root of the model's effect,
        "agreement", its correlation with w over genes, both missing where the table lacks the row, and the table's
        "training_cells" and "untrained". Of a single cell there is no size.

    Raises
    ------
    DataError
        For cells without controls or perturbed ones, levels with a single control, and targets that the data lack.
    ValueError
        For effects of other genes or of another readout, and a level outside (0, 1).
    """
    check_data(data, "rank_perturbations")
    above(0, 1, level=level)
    resamples = whole("resamples", resamples, 1)
    if targets:
        names = {label: data.target_of(label) for label in set(data.labels[data.n_perturbations > 0])}
        effects = effects if effects is None else by_target(effects, data)
        data = replace(data, labels=np.array([names.get(label, label) for label in data.labels], dtype=object))
    seen = data_effects(data, readout, within=within)
    cells = seen.obs["cells"].to_numpy()
    degrees = np.r_[seen.uns["samslib"]["control_cells"], cells][:, None] - 1.0
    variances = np.vstack([seen.var["control_variance"], seen.layers["variance"]])
    v = np.nansum(degrees * variances, axis=0) / degrees.sum()
    scale = np.where(v > 0, 1 / np.where(v > 0, v, 1), 0) / max((v > 0).sum(), 1)  # others say nothing
    null = _Null(data, readout, within)
    statistics = np.stack([effect**2 @ scale for effect in null.draws(resamples, seed)])
    boot = [(of.mean[1:] - of.mean[0]) ** 2 @ scale for of in replicates(data, readout, REPLICATES, within, seed=seed)]
    noise = statistics.var(0)
    half = norm.ppf((1 + level) / 2) * np.sqrt(np.maximum(np.var(boot, axis=0) - 2 * noise, noise))
    statistic = seen.X**2 @ scale
    square = statistic - seen.layers["standard_error"] ** 2 @ scale
    p = (1 + (statistics >= statistic * (1 - 1e-12)).sum(0)) / (resamples + 1)
    if len(p) / (resamples + 1) > 0.05:
        text = f"{resamples} resamples cannot find one of {len(p)} perturbations at a false discovery rate of 5%"
        warnings.warn(f"{text}; give {20 * len(p)} or more.", stacklevel=2)
    table = pd.DataFrame({"cells": cells}, index=seen.obs_names)
    for name, of in {"size": square, "low": square - half, "high": square + half}.items():
        table[name] = np.sqrt(of.clip(min=0))
    table = table.assign(p=p, fdr=false_discovery_control(p), few_cells=cells < FEW, few_controls=null.scaled)
    table = table if effects is None else table.join(_of_model(effects, seen, scale))
    return table.sort_values(["p", "size"], ascending=[True, False]).rename_axis("perturbation").reset_index()


def _of_model(effects: anndata.AnnData, seen: anndata.AnnData, scale: np.ndarray) -> pd.DataFrame:
    """What a model says of the rows that its table has."""
    require(list(effects.var_names) == list(seen.var_names), "The effects have other genes than the data.")
    kinds = [table.uns["samslib"]["readout"] for table in (effects, seen)]
    require(kinds[0] == kinds[1], f"The effects are of the readout {kinds[0]!r}, but readout is {kinds[1]!r}.")
    both = effects.obs_names.intersection(seen.obs_names)
    require(len(both), "The effects and the data share no perturbation; give effects of a model of these data.")
    made, observed = effects[both].to_df(), seen[both].to_df()
    table = pd.DataFrame({"model_size": np.sqrt(made**2 @ scale), "agreement": made.corrwith(observed, axis=1)})
    return table.join(effects.obs[[name for name in ("training_cells", "untrained") if name in effects.obs]])


class _Null:
    """Effects of control cells against other control cells, for each condition of the data."""

    def __init__(self, data: PerturbationData, readout: str, within: str | Sequence[str]):
        code, levels = conditions(data)[1], strata(data, within)
        sizes = pd.crosstab(code, levels)
        lone = list(sizes.columns[(sizes.loc[0] == 1) & (sizes.loc[1:].sum() > 0)])
        text = f"There is a single control cell{' of ' + str(lone[0]) if lone and lone[0] else ''}"
        require(not lone, f"{text}; a null of controls against controls needs two.", DataError)
        self.controls = [readouts(data[(code == 0) & (levels == name)], readout) for name in sizes.columns]
        self.sizes, self.of = np.unique(sizes.loc[1:].to_numpy(), axis=0, return_inverse=True)
        self.scaled = (sizes.loc[1:] > sizes.loc[0] // 2).any(axis=1).to_numpy()

    def draws(self, resamples: int, seed: int) -> Iterator[np.ndarray]:
        """(conditions, G) null effects of each resample."""
        rng = np.random.default_rng(seed)
        share = self.sizes / self.sizes.sum(1, keepdims=True)
        for _ in range(resamples):
            parts = (self._of_level(*level, rng) for level in zip(self.controls, self.sizes.T, share.T, strict=True))
            yield sum(parts)[self.of]  # type: ignore[index]

    @staticmethod
    def _of_level(g, n: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(sizes, G) parts of the effects that are of one level, of which each size has n cells."""
        total, N = np.asarray(g.sum(0)).ravel(), g.shape[0]
        drawn = np.minimum(n, N // 2)
        chosen = g[rng.permutation(N)[: drawn.max()]]
        sums = np.vstack([0 * total, (chosen if isinstance(chosen, np.ndarray) else chosen.toarray()).cumsum(0)])[drawn]
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.sqrt((1 / n + 1 / N) / (1 / drawn + 1 / (N - drawn)))[:, None]
            effect = scale * (sums / drawn[:, None] - (total - sums) / (N - drawn)[:, None])
        return share[:, None] * np.where(n[:, None] > 0, effect, 0)
