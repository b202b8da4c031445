"""Combinations that do not add up, measured: which pairs interact, and what unseen pairs do.

python -m samsbook.epistasis found    pairs with a shift of their own, on simulated screens: found and falsely called
python -m samsbook.epistasis pairs    effects of withheld pairs with two terms that all pairs share, and without

"found" writes `data/results/further-epistasis.csv`, "pairs" `data/results/further-pairs.csv`, with their provenance.
The two shared terms, `Saturating` and `Bilinear`, are here and not in the library: see the verdict in
`book/differences.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, norm
from scipy.stats import t as student
from torch import Tensor, nn
from torch.nn.functional import softplus

import samslib
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData
from samslib.cells import Batch, Condition, DataSummary, Plate
from samslib.trace import Trace

SCREEN: dict[str, Any] = {
    "singles": 20, "pairs": 40, "cells": 80, "controls": 300, "genes": 120, "latent": 10, "library": (400.0, 0.4),
}  # fmt: skip
EPISTASIS = 0.3  # share of the pairs with a shift of their own
LEVELS = (0.05, 0.1, 0.2)  # nominal false discovery rates
FIRST = 20  # seed of the first screen; the defaults of prior and smallest size were chosen on those before it
MODEL, ANY, CELLS = "SAMS-VAE, interactions", "SAMS-VAE, interactions of any size", "effects of the cells"


def called_from_cells(cells: PerturbationData, level: float) -> list[str]:
    """The pairs whose effects are not the sum of their parts', by a test that needs no model.

    Each gene's residual effect_AB - effect_A - effect_B is compared with its standard error, which is that of the means
    of the four groups of cells; a pair's p-value is Simes' over genes, and the pairs are called by Benjamini and
    Hochberg's rule.

    Parameters
    ----------
    cells
        Cells of pairs, of their parts and of control.
    level
        Nominal false discovery rate.

    Returns
    -------
    list
        Labels of the pairs called.
    """
    effects = samslib.data_effects(cells)
    found = samslib.interactions(effects)
    error = pd.DataFrame(effects.layers["variance"] / effects.obs["cells"].to_numpy()[:, None], effects.obs_names)
    control = effects.var["control_variance"].to_numpy() / (cells.n_perturbations == 0).sum()
    p_values = []
    for pair, residual in zip(found.obs_names, found.X, strict=True):
        square = error.loc[[pair, *pair.split("+")]].sum().to_numpy() + control
        p = np.sort(2 * norm.sf(np.abs(residual[square > 0]) / np.sqrt(square[square > 0])))
        p_values.append(min(1.0, (p * len(p) / np.arange(1, len(p) + 1)).min()))
    return list(found.obs_names[false_discovery_control(p_values) <= level])


def calls(*, seed: int) -> list[dict[str, Any]]:
    """The pairs that model and cells call on one screen, beside the truth.

    Parameters
    ----------
    seed
        Seed of the screen, the split, the weights and the training.

    Returns
    -------
    list
        Rows, one a way and level: numbers of pairs that interact, of those found, missed and falsely called, and
        seconds of the fit.
    """
    torch.set_num_threads(1)
    adata = samslib.simulate.perturb_seq(**SCREEN, mask_probability=0.13, epistasis=EPISTASIS, seed=seed)
    data = PerturbationData.from_anndata(adata)
    train, val, _ = data.split(samslib.splits.random(seed=seed))
    model = samslib.SAMSVAE(data.summary(train), latent=20, interactions=True, seed=seed)
    history = samslib.fit(model, train, val, FitConfig(seed=seed, progress=False))
    truth, rows = adata.uns["truth"], []
    interact = set(truth["pairs"][truth["M_pair"].any(1)])
    for level in LEVELS:
        called = {CELLS: called_from_cells(data, level)}
        for way, smallest in {MODEL: {}, ANY: {"smallest": 0.0}}.items():
            table = samslib.interaction_table(model, level, **smallest).query("called")
            called[way] = list(table["first"] + "+" + table["second"])
        for way, names in ((way, set(pairs)) for way, pairs in called.items()):
            row = {"way": way, "level": level, "seed": seed, "interact": len(interact), "found": len(names & interact)}
            row |= {"missed": len(interact - names), "false": len(names - interact)}
            rows.append(row | {"seconds": history.attrs["seconds"] if way != CELLS else np.nan})
    return rows


def found(seeds: int, processes: int = 1) -> pd.DataFrame:
    """Both ways on every screen.

    Parameters
    ----------
    seeds
        Number of screens.
    processes
        How many are fitted at a time, of one thread each.

    Returns
    -------
    DataFrame
        A row a way and level: totals over screens; the realised false discovery rate, which is the mean over screens of
        the false share of what was called (0 where nothing was), and the power, with 95% half widths.
    """
    rows = _run(calls, [{"seed": FIRST + seed} for seed in range(seeds)], processes)
    rows["fdr"] = rows["false"] / (rows["found"] + rows["false"]).clip(lower=1)
    rows["power"] = rows["found"] / rows["interact"]
    groups = rows.groupby(["way", "level"], sort=False)
    table = groups[["interact", "found", "missed", "false"]].sum()
    for name in ("fdr", "power"):
        table[name] = groups[name].mean()
        table[f"{name}_half_width"] = groups[name].sem() * student.ppf(0.975, seeds - 1)
    return table.assign(seconds=groups["seconds"].mean()).reset_index()


class Saturating(samslib.SAMSVAE):
    """Each latent axis has a curve that all perturbations share: z = z_basal + tanh(c s) / c, with s the summed shift.

    c > 0 is a parameter an axis, near 0 (a straight line) at the start, and 0 while masks are dense.
    """

    def __init__(self, summary: DataSummary, *, seed: int | None = None, **options: Any):
        super().__init__(summary, seed=seed, **options)
        self.square = nn.Parameter(torch.full(self.mask_logits.shape[1:], -7.0))

    def shift(self, t: Trace, c: Condition) -> Tensor:
        s = super().shift(t, c)
        curve = softplus(self.square).sqrt()
        return (curve * s).tanh() / curve if self.settled else s


class Bilinear(samslib.SAMSVAE):
    """Pairs have a further shift of low rank: the sum over a < b of D_a D_b (u_a * u_b) W.

    u (T, r) and W (r, K) start small and have a standard normal prior, at whose mode with the data they are taken.
    """

    def __init__(self, summary: DataSummary, rank: int = 5, *, seed: int | None = None, **options: Any):
        super().__init__(summary, seed=seed, **options)
        self.u = nn.Parameter(0.1 * torch.randn(len(summary.perturbations), rank))
        self.W = nn.Parameter(0.1 * torch.randn(rank, self.mask_logits.shape[1]))

    def shift(self, t: Trace, c: Condition) -> Tensor:
        u = self.u[t.rows(Plate.DOSE)]
        return super().shift(t, c) + ((c.dose @ u).square() - c.dose.square() @ u.square()) / 2 @ self.W

    def turn_shifts(self, rotation: Tensor) -> None:
        super().turn_shifts(rotation)
        self.W.copy_(self.W @ rotation)

    def penalty(self, b: Batch, q: Trace) -> dict[str, Tensor]:
        return {"bilinear": (self.u.square().sum() + self.W.square().sum()) / 2 / self.summary.n_cells}


SHARED: dict[str, tuple[type[samslib.SAMSVAE], dict[str, Any]]] = {
    "SAMS-VAE": (samslib.SAMSVAE, {}),
    "SAMS-VAE, saturating": (Saturating, {}),
    "SAMS-VAE, bilinear": (Bilinear, {}),
}
SUM = "sum of the parts' effects"
SCREENS: dict[str, dict[str, Any]] = {"saturating": {"saturation": 0.15}}  # what differs from SCREEN
REAL = "norman-devel"
STEPS = 1000  # of a training, as in chapter 5's runs on the real cells
SPLIT = (0.6, 0.4)  # shares of the pairs that are trained on, and tested on


def cells_of(screen: str, *, seed: int) -> PerturbationData:
    """A simulated screen of pairs by name, or the real one, which does not depend on the seed.

    Parameters
    ----------
    screen
        A name in `SCREENS`, or `REAL`.
    seed
        Of the screen.
    """
    if screen == REAL:
        return PerturbationData.from_anndata(samslib.datasets.load(REAL))
    return PerturbationData.from_anndata(
        samslib.simulate.perturb_seq(**SCREEN, **SCREENS[screen], mask_probability=0.13, seed=seed)
    )


def predicted(screen: str, way: str, *, seed: int) -> list[dict[str, Any]]:
    """Effects of withheld pairs, which are in no cell that is trained or validated on.

    Parameters
    ----------
    screen
        A name in `SCREENS`, or `REAL`.
    way
        A name in `SHARED`; or `SUM`, which is without a model and also measures the ceiling.
    seed
        Seed of the screen, the split, the weights and the training.

    Returns
    -------
    list
        One row: names, seed, and against the effects of all cells of the pairs the pooled correlation, that of the
        residuals of pairs whose parts are measured alone, and the error; the noise ceiling of the two correlations, or
        the validation bound and seconds of the fit.
    """
    torch.set_num_threads(1)
    data = cells_of(screen, seed=seed)
    data = data.select_genes(data.split(samslib.splits.combination_cells(0))[0].genes_seen(1))
    train, val, test = data.split(samslib.splits.combinations(*SPLIT, seed=seed))
    held = sorted(set(test.labels))
    asked = [*held, *sorted({part for pair in held for part in pair.split("+")} & set(data.labels))]
    row: dict[str, Any] = {"screen": screen, "way": way, "seed": seed}
    if way == SUM:
        table = samslib.predictors(train, val, data, asked)["training cells"]
        ceiling = samslib.noise_ceiling(data, perturbations=held, seed=seed).query("perturbation == 'pooled'")
        row |= {f"{name}_ceiling": value for name, value in ceiling.set_index("score")["ceiling"].items()}
    else:
        kind, options = SHARED[way]
        model = kind(data.summary(train), **options, seed=seed)
        history = samslib.fit(model, train, val, FitConfig(steps=STEPS, seed=seed, progress=False))
        table = samslib.average_effects(model, data, asked, seed=seed)
        settled = history["val_loss"].loc[history.attrs["best_step"] :]
        row |= {"bound": -settled.min(), "seconds": history.attrs["seconds"]}
    scores = samslib.effect_scores(table, samslib.data_effects(data), perturbations=held, resamples=0)
    row |= scores.query("perturbation == 'pooled'").set_index("score")["value"].to_dict()
    names = ("pearson", "interaction_pearson", "rmse", "pearson_ceiling", "interaction_pearson_ceiling")
    return [{name: row.get(name, np.nan) for name in ("screen", "way", "seed", *names, "bound", "seconds")}]


def pairs(seeds: int, processes: int = 1) -> pd.DataFrame:
    """Every way on every screen, over so many seeds of screen and split.

    Parameters
    ----------
    seeds
        Number of screens, or of splits of the real one.
    processes
        How many are fitted at a time, of one thread each.

    Returns
    -------
    DataFrame
        A row a screen and way: means over seeds, with the difference of the correlation to that of the additive
        SAMS-VAE on the same seed and its 95% half width.
    """
    asked = [
        {"screen": screen, "way": way, "seed": seed}
        for screen in (*SCREENS, REAL) for seed in range(seeds) for way in (SUM, *SHARED)
    ]  # fmt: skip
    rows = _run(predicted, asked, processes)
    bar = rows[rows["way"] == next(iter(SHARED))].set_index(["screen", "seed"])["pearson"]
    rows["difference"] = rows["pearson"] - rows.set_index(["screen", "seed"]).index.map(bar)
    groups = rows.groupby(["screen", "way"], sort=False)
    table = groups.mean().drop(columns="seed")
    table["difference_half_width"] = groups["difference"].sem() * student.ppf(0.975, seeds - 1)
    return table.reset_index()


def _run(function: Callable[..., list[dict]], arguments: Iterable[dict[str, Any]], processes: int) -> pd.DataFrame:
    with ProcessPoolExecutor(processes) as pool:
        made = [pool.submit(function, **given) for given in arguments]
        return pd.DataFrame([row for one in made for row in one.result()])


def main() -> None:
    """Read the command line, run what it names, and write and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("found", "pairs"))
    parser.add_argument("--seeds", type=int, default=5, help="screens or splits, 3 or more")
    parser.add_argument("--processes", type=int, default=1, help="fits at a time, of one thread each")
    asked = parser.parse_args()
    if asked.seeds < 3:
        parser.error(f"--seeds is {asked.seeds}; give 3 or more.")
    start = time.perf_counter()
    table = {"found": found, "pairs": pairs}[asked.what](asked.seeds, asked.processes)
    name = {"found": "further-epistasis", "pairs": "further-pairs"}[asked.what]
    first = FIRST if asked.what == "found" else 0
    path = write_results(name, table, {"seed": first, "seeds": asked.seeds}, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
