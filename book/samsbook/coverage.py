"""What ensembles, calibrated intervals and the ranked list are worth, measured.

python -m samsbook.coverage ensembles   one fit beside 3 and 5 that differ by seed, on two real screens
python -m samsbook.coverage coverage    what calibrated intervals cover, on simulated screens and two real ones
python -m samsbook.coverage ranking     false discoveries on null and mixed screens, and hits on the real screen tapseq

Each writes `data/results/further-<name>.csv` with its provenance. With --checkpoints a run that was ended goes on, and
`coverage` takes up the fits of `ensembles` if it is given the same folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

import samslib
from samsbook.beyond import _pooled, real
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData

REAL = ("norman-devel", "tapseq")
MEMBERS = 5


def members(
    data: PerturbationData, seed: int, number: int, folder: Path | None, split: Any = None, **config: int
) -> tuple[list[samslib.SAMSVAE], list[samslib.History], list[anndata.AnnData]]:
    """Models of the split of this seed, their histories and tables of `posterior_effects`.

    Parameters
    ----------
    data
        All cells.
    seed
        Seed of the split; those of the models are ten times it and the numbers after.
    number
        Number of models.
    folder
        Where their training is saved; None for nowhere.
    split
        A split. None: by cells.
    config
        Further settings of `FitConfig`.
    """
    train, val, _ = data.split(samslib.splits.random(seed=seed) if split is None else split)
    summary, seeds = data.summary(train), range(10 * seed, 10 * seed + number)
    settings = FitConfig(progress=False, checkpoints=folder, **config)
    models, histories = samslib.fit_many(lambda s: samslib.SAMSVAE(summary, seed=s), train, val, settings, seeds)
    tables = [samslib.posterior_effects(model, data, seed=s) for model, s in zip(models, seeds, strict=True)]
    return models, histories, tables


def ensembles(splits: int, folder: Path | None) -> pd.DataFrame:
    """Correlation with the effects of held-out cells, bound and seconds of ensembles, and what needs no model.

    Parameters
    ----------
    splits
        Number of splits of each screen.
    folder
        Where training is saved; None for nowhere.

    Returns
    -------
    DataFrame
        A row a screen, split and predictor. "correlation" is that of all effects at once; of "1 fit" all numbers are
        means over the members. "bound" is the held-out importance-weighted bound of test cells (20 particles; of an
        ensemble that of the mixture of its members) in nats a cell, "seconds" are those of training.
    """
    rows = []
    for dataset in REAL:
        data = real(dataset)
        for seed in range(splits):
            split = samslib.splits.random(seed=seed)
            models, histories, tables = members(data, seed, MEMBERS, folder and folder / f"{dataset}-{seed}")
            seconds = [history.attrs["seconds"] for history in histories]
            test = data.split(split)[2]
            bounds = [samslib.held_out_iwelbo(model, test, 20)["iwelbo"].to_numpy() for model in models]
            means = {f"{k} fits": samslib.ensemble_effects(tables[:k]) for k in (3, MEMBERS)}
            scored = _pooled({str(i): table for i, table in enumerate(tables)} | means, data, split, True)
            fits = [{"predictor": "1 fit", **scored.loc[list(map(str, range(MEMBERS)))].mean()}]
            fits[0] |= {"bound": np.mean(bounds), "seconds": np.mean(seconds)}
            for name, k in {"3 fits": 3, f"{MEMBERS} fits": MEMBERS}.items():
                mixture = np.logaddexp.reduce(bounds[:k]).mean() - np.log(k)
                fits.append({"predictor": name, **scored.loc[name], "bound": mixture, "seconds": sum(seconds[:k])})
            alone = scored[scored.index.str.startswith("data: ")].rename_axis("predictor").reset_index()
            rows += [{"screen": dataset, "split": seed, **row} for row in [*fits, *alone.to_dict("records")]]
    return pd.DataFrame(rows)


SIMULATED: dict[str, dict[str, Any]] = {  # what differs from a screen of `simulate.perturb_seq`
    "simulated": {"singles": 30, "pairs": 0, "mask_probability": 0.13},
    "no effects": {"singles": 30, "pairs": 0, "mask_probability": 0.0},
    "unseen pairs": {"singles": 20, "pairs": 30, "mask_probability": 0.13},
}
CELLS, CONTROLS, TRUTH = (
    (20, 40, 80, 160),
    300,
    640,
)  # cells of a condition, of controls, and simulated
STEPS = 500  # of training on a simulated screen
LEVELS = (0.5, 0.8, 0.9, 0.95)
BINS = {"all": (0, np.inf), "below 20": (0, 20), "20 to 49": (20, 50), "50 to 99": (50, 100), "from 100": (100, np.inf)}


def simulated(name: str, *, seed: int) -> tuple[PerturbationData, np.ndarray, anndata.AnnData]:
    """A screen of conditions of 20 to 160 cells, a part for each cell, and the effects in all further cells: the truth.

    Parameters
    ----------
    name
        A name in `SIMULATED`. Of "unseen pairs" a third of the pairs trains and validates, the next validates alone,
        and the last is tested; all other screens are split by cells.
    seed
        Seed of the screen and its split.
    """
    screen = samslib.simulate.perturb_seq(
        **SIMULATED[name], cells=TRUTH, controls=3000, genes=100, latent=10, library=(400.0, 0.4), seed=seed
    )
    rng, labels = np.random.default_rng(seed), screen.obs["perturbation"].to_numpy().astype(str)
    taken = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        size = CONTROLS if label == "control" else rng.choice(CELLS)
        taken[rng.choice(np.flatnonzero(labels == label), size, replace=False)] = True
    data = PerturbationData.from_anndata(screen[taken].copy())
    parts = samslib.splits.random(seed=seed)(data)
    pairs = rng.permutation(np.unique(data.labels[data.n_perturbations == 2]).astype(str))
    third = len(pairs) // 3
    if third:
        parts[np.isin(data.labels, pairs[third : 2 * third])] = "val"
        parts[np.isin(data.labels, pairs[2 * third :])] = "test"
    return data, parts, samslib.data_effects(PerturbationData.from_anndata(screen[~taken].copy()))


def covered(
    effects: anndata.AnnData, parts: tuple[PerturbationData, ...], truth: anndata.AnnData | None, level: float
) -> list[dict[str, Any]]:
    """Which share of the effects of test cells, and of the true ones if they are given, is in the intervals.

    Parameters
    ----------
    effects
        A table of effects.
    parts
        Training, validation and test cells.
    truth
        Table of the true effects; None where nobody knows them.
    level
        Coverage that the intervals state.

    Returns
    -------
    list
        A row for the two kinds of interval, all conditions and those of so many training cells: level, "of", "cells",
        number of conditions, coverage, mean width, and "spread", the standard deviation of coverage over conditions.
    """
    train, val, test = map(samslib.data_effects, parts)
    cells = test.obs["cells"].reindex(effects.obs_names).fillna(1)
    made = samslib.calibrated_effects(effects, train, val, level, cells, test.uns["samslib"]["control_cells"])
    made = made[made.obs_names.isin(test.obs_names) & made.obs["validated"]]
    names, n = made.obs_names, made.obs["training_cells"].to_numpy()
    if (unseen := ~names.isin(train.obs_names)).any():
        made, names, n = made[unseen], names[unseen], n[unseen]
    rows = []
    for of, prefix, seen in (("cells", "cells_", test), ("truth", "", truth)):
        if seen is not None:
            low, high = made.layers[f"{prefix}low"], made.layers[f"{prefix}high"]
            inside, width = ((low <= seen[names].X) & (seen[names].X <= high)).mean(1), (high - low).mean(1)
            for name, (least, below) in BINS.items():
                at = (n >= least) & (n < below)
                if at.any():
                    row = {"level": level, "of": of, "cells": name, "conditions": at.sum()}
                    row |= {"coverage": inside[at].mean(), "width": width[at].mean(), "spread": inside[at].std()}
                    rows.append(row)
    return rows


def coverage(splits: int, folder: Path | None) -> pd.DataFrame:
    """What the intervals of an ensemble cover on simulated and real screens; of unseen pairs only these are counted.

    Parameters
    ----------
    splits
        Number of simulated screens of each kind, and of splits of each real one.
    folder
        Where training is saved; None for nowhere.

    Returns
    -------
    DataFrame
        The rows of `covered` by screen and split.
    """
    rows = []
    for name in (*SIMULATED, *REAL):
        for seed in range(splits):
            if name in SIMULATED:
                data, split, truth = simulated(name, seed=seed)
                tables = members(data, seed, 2, folder and folder / f"{name}-{seed}", split, steps=STEPS)[2]
            else:
                data, split, truth = real(name), samslib.splits.random(seed=seed), None
                tables = members(data, seed, MEMBERS, folder and folder / f"{name}-{seed}")[2]
            effects, parts = samslib.ensemble_effects(tables), data.split(split)
            found = [row for level in LEVELS for row in covered(effects, parts, truth, level)]
            rows += [{"screen": name, "split": seed, **row} for row in found]
    return pd.DataFrame(rows)


RATES = (0.05, 0.1, 0.2)


def ranking(screens: int) -> pd.DataFrame:
    """False discoveries of the ranked list on simulated screens of 20 perturbations, and hits on tapseq.

    Parameters
    ----------
    screens
        Number of simulated screens of each kind.

    Returns
    -------
    DataFrame
        A row a kind of screen and rate q. "any_hit" is the share of screens with any hit at q, with its 95% interval;
        "false_share" the mean over screens of the share of hits that have no effect; "power" the share of perturbations
        with an effect that are hits; "p_below_q" the share of p below q of those without. On tapseq, "hits" of "rows".
    """
    rows = []
    for name, controls, mask in (
        ("null, 300 controls", 300, 0.0),
        ("null, 60 controls", 60, 0.0),
        ("half null, 300 controls", 300, 0.065),
    ):
        tables = [_ranked(controls, mask, seed=seed) for seed in range(screens)]
        for q in RATES:
            hits = [table["fdr"] <= q for table in tables]
            null, acts = (np.concatenate([t["acts"] == of for t in tables]) for of in (False, True))
            any_hit = binomtest(sum(map(any, hits)), screens)
            interval, p = any_hit.proportion_ci(), np.concatenate([table["p"] for table in tables])
            wrong = [(h & ~t["acts"]).sum() / max(h.sum(), 1) for h, t in zip(hits, tables, strict=True)]
            row = {"screen": name, "q": q, "screens": screens, "any_hit": any_hit.statistic}
            row |= {"low": interval.low, "high": interval.high, "false_share": np.mean(wrong)}
            row |= {"power": np.concatenate(hits)[acts].mean() if acts.any() else np.nan}
            rows.append(row | {"p_below_q": (p[null] <= q).mean()})
    data = real("tapseq")
    for name, targets in (("tapseq, guides", False), ("tapseq, targets", True)):
        table = samslib.rank_perturbations(data, targets=targets)
        rows += [{"screen": name, "q": q, "hits": (table["fdr"] <= q).sum(), "rows": len(table)} for q in RATES]
    return pd.DataFrame(rows)


def _ranked(controls: int, mask: float, *, seed: int) -> pd.DataFrame:
    """The ranked list of a simulated screen, with the truth: whether a perturbation acts."""
    screen = samslib.simulate.perturb_seq(
        20, 0, 40, controls, 60, latent=10, mask_probability=mask, effect_scale=1.0, library=(400.0, 0.4), seed=seed
    )
    table = samslib.rank_perturbations(PerturbationData.from_anndata(screen), resamples=500, seed=seed)
    truth = pd.Series(screen.uns["truth"]["M"].any(1), list(screen.uns["truth"]["perturbations"]))
    return table.assign(acts=truth[table["perturbation"]].to_numpy())


def main() -> None:
    """Read the command line, run what it names, and write and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of: dict[str, Callable[..., pd.DataFrame]] = {"ensembles": ensembles, "coverage": coverage, "ranking": ranking}
    parser.add_argument("what", choices=tuple(of))
    parser.add_argument("--splits", type=int, default=3, help="splits of each real screen, and screens of a kind")
    parser.add_argument("--screens", type=int, default=200, help="simulated screens of a kind, of ranking")
    parser.add_argument("--checkpoints", type=Path, help="folder in which training is saved and from which it goes on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    ranks = asked.what == "ranking"
    table = of[asked.what](*((asked.screens,) if ranks else (asked.splits, asked.checkpoints)))
    parameters = {"seed": 0, **({"screens": asked.screens} if ranks else {"splits": asked.splits})}
    path = write_results(f"further-{asked.what}", table, parameters, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
