"""Doses that nothing was trained on, drug by drug, and whether a model knows how wrong it is there.

python -m samsbook.unseen

Simulated screens of drugs at six doses, two of each drug withheld. Effects at doses that were trained on, at the
withheld ones, at twice the largest and of pairs of drugs are compared with the true ones, and their errors with what
tells of them beforehand: for CPA the distance of a query from the training conditions, for SAMS-VAE the spread of the
posterior, and for both the mere size of the predicted effect. Writes `data/results/query-distance.csv`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.stats import spearmanr
from scipy.stats import t as student

import samslib
from samsbook.doses import CPA, SCREEN, SIZES
from samsbook.results import root, write_results
from samsbook.transfer import mean_readout
from samslib import FitConfig, PerturbationData

Asked = dict[str, float]  # amounts by drug
MODELS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "CPA": (samslib.CPA, CPA | {"dose_curve": "logsigm"}),
    "SAMS-VAE": (samslib.SAMSVAE, SIZES | {"dose_curve": "logsigmoid"}),
}


def variable_genes(data: PerturbationData, most: int) -> np.ndarray:
    """The genes whose logarithm of counts varies most between cells, of those that three cells or more have.

    Parameters
    ----------
    data
        The cells.
    most
        Number of genes, if there are so many.

    Returns
    -------
    ndarray
        (G,) which genes.
    """
    spread = data.summary().log_std.numpy() * data.genes_seen(3)
    return (spread > 0) & (spread >= np.sort(spread)[-min(most, len(spread))])


def second_largest(data: PerturbationData) -> dict[str, float]:
    """The second-largest dose of each drug.

    Parameters
    ----------
    data
        Cells of drugs at three doses or more.

    Returns
    -------
    dict
        Drug -> dose.
    """
    return {name: float(np.unique(data.dose[:, t].data)[-2]) for t, name in enumerate(data.perturbations)}


def parts(data: PerturbationData, withheld: Mapping[str, Sequence[float]], *, seed: int = 0) -> np.ndarray:
    """A split in which the cells at some doses are the test cells.

    Parameters
    ----------
    data
        The cells.
    withheld
        Drug -> its doses that are withheld.
    seed
        Of the split of all other cells, four fifths to train on and the rest to validate on.

    Returns
    -------
    ndarray
        (n,) "train", "val" or "test".
    """
    part = np.where(np.random.default_rng(seed).random(len(data)) < 0.8, "train", "val")
    for t, name in enumerate(data.perturbations):
        part[np.isin(data.dose[:, t].toarray().ravel(), list(withheld.get(name, ())))] = "test"
    return part


def interpolated(train: PerturbationData, asked: Mapping[str, float]) -> np.ndarray:
    """Effects at a dose from those of training cells at the two neighbouring doses, on the logarithm of the dose.

    Parameters
    ----------
    train
        Training cells and controls.
    asked
        Drug -> a dose between two of its training doses.

    Returns
    -------
    ndarray
        (drugs, G) effects.
    """
    every, rows = samslib.data_effects(train), []
    for name, dose in asked.items():
        seen = np.unique(train.dose[:, train.perturbations.index(name)].data)
        ends = float(seen[seen < dose].max()), float(seen[seen > dose].min())
        low, high = every[[train.describe(train.dose_of({name: end})[0].tolist()) for end in ends]].X
        share = np.log(dose / ends[0]) / np.log(ends[1] / ends[0])
        rows.append((1 - share) * low + share * high)
    return np.array(rows)


def effects_in_cells(
    model: Any, cells: PerturbationData, asked: Sequence[Asked], draws: int = 5, *, seed: int = 0
) -> np.ndarray:
    """Effects as CPA is asked for them: observed control cells, decoded with the query's dose, against themselves.

    Parameters
    ----------
    model
        A trained model.
    cells
        Control cells.
    asked
        Amounts by drug.
    draws
        Draws of each cell.
    seed
        Seed of the draws.

    Returns
    -------
    ndarray
        (queries, G) differences of means of log2(1 + 10,000 x / sum of x).
    """

    def mean(amounts: Asked | str) -> np.ndarray:
        made = (samslib.counterfactual_cells(model, cells, amounts, seed=seed + i).X for i in range(draws))
        return mean_readout(cells, sp.vstack(list(made), format="csr"))

    return np.array([mean(one) for one in asked]) - mean(str(cells.control))


def queries(
    data: PerturbationData, withheld: Mapping[str, Sequence[float]], pairs: int, *, seed: int = 0
) -> pd.DataFrame:
    """Queries of four kinds.

    Parameters
    ----------
    data
        The cells of single drugs.
    withheld
        Drug -> its doses that are withheld.
    pairs
        Number of pairs of drugs, drawn at random, both at their largest dose.
    seed
        Of the pairs.

    Returns
    -------
    DataFrame
        Columns "kind" ("trained dose", "withheld dose", "twice the largest dose", "pair of drugs") and "asked", amounts
        by drug.
    """
    rows: list[tuple[str, Asked]] = []
    largest = {}
    for t, name in enumerate(data.perturbations):
        doses = [float(dose) for dose in np.unique(data.dose[:, t].data)]
        largest[name] = doses[-1]
        kinds = {dose: "withheld dose" if dose in withheld[name] else "trained dose" for dose in doses}
        rows += [(kind, {name: dose}) for dose, kind in (kinds | {2 * doses[-1]: "twice the largest dose"}).items()]
    possible = list(combinations(data.perturbations, 2))
    chosen = np.random.default_rng(seed).choice(len(possible), min(pairs, len(possible)), replace=False)
    rows += [("pair of drugs", {name: largest[name] for name in possible[i]}) for i in sorted(chosen)]
    return pd.DataFrame(rows, columns=["kind", "asked"])


def told(model: Any, train: PerturbationData, asked: Sequence[Asked], *, seed: int = 0) -> dict[str, np.ndarray]:
    """What a model says of its queries beforehand, and what it predicts.

    Parameters
    ----------
    model
        A trained CPA or SAMS-VAE.
    train
        The cells it was trained on.
    asked
        Amounts by drug.
    seed
        Seed of the draws.

    Returns
    -------
    dict
        "effect" (queries, G); and (queries,) each "size", its root mean square over genes, and "cosine" and "euclidean"
        distances, or "spread", the posterior's, of a model without embeddings.
    """
    if isinstance(model, samslib.CPA):
        distance = samslib.distance_to_training(model, train, asked)
        found = {name: distance[name].to_numpy().round(6) for name in ("cosine", "euclidean")}  # of ties, none first
        effect = samslib.average_effects(model, train, asked, seed=seed).X
    else:
        table = samslib.posterior_effects(model, train, asked, seed=seed)
        effect = table.X
        found = {"spread": np.sqrt(table.layers["posterior_variance"].mean(1).clip(min=0))}
    return {"effect": effect, "size": np.sqrt(np.square(effect).mean(1)), **found}


def two_doses(data: PerturbationData, *, seed: int) -> dict[str, list[float]]:
    """Two doses of each drug, drawn at random.

    Parameters
    ----------
    data
        The cells of drugs.
    seed
        Of the draws.

    Returns
    -------
    dict
        Drug -> its doses as the data have them, which are in single precision.
    """
    rng = np.random.default_rng(seed)
    every = {name: np.unique(data.dose[:, t].data) for t, name in enumerate(data.perturbations)}
    return {name: [float(dose) for dose in rng.choice(doses, 2, replace=False)] for name, doses in every.items()}


def one_screen(steps: int, *, seed: int) -> pd.DataFrame:
    """Queries of a screen, their errors and what was told of them.

    Parameters
    ----------
    steps
        Training steps of each model.
    seed
        Of everything random.

    Returns
    -------
    DataFrame
        A row a model, query and measure: "seed", "model", "kind", "error", "measure" and "value".
    """
    adata = samslib.simulate.dose_response(**SCREEN, seed=seed)
    data = PerturbationData.from_anndata(adata, dose="dose")
    train, val, _ = data.split(parts(data, withheld := two_doses(data, seed=seed), seed=seed))
    listed = queries(data, withheld, 24, seed=seed)
    asked = listed["asked"].tolist()
    truth = samslib.simulate.true_effects(adata, asked, 5000, seed=seed)
    tables = []
    for name, (kind, options) in MODELS.items():
        model = kind(data.summary(train), **options, seed=seed)
        samslib.fit(model, train, val, FitConfig(steps=steps, batch_size=256, seed=seed, progress=False, device="cpu"))
        found = told(model, train, asked, seed=seed)
        error = np.sqrt(np.square(found.pop("effect") - truth).mean(1))
        wide = pd.DataFrame({"seed": seed, "model": name, "kind": listed["kind"], "error": error, **found})
        tables.append(wide.melt(["seed", "model", "kind", "error"], var_name="measure"))
    return pd.concat(tables, ignore_index=True)


def summarised(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over screens.

    Parameters
    ----------
    rows
        Rows of `one_screen` for three screens or more.

    Returns
    -------
    DataFrame
        A row a model, measure and kind of query, and "all" of them: means of "error" and "value", the Spearman
        correlation "rank" of the two within a screen (missing where the measure is one for all of a kind), and the half
        width of its 95% t interval over screens.
    """
    every = pd.concat([rows, rows.assign(kind="all")])
    keys = ["model", "measure", "kind"]
    groups = every.groupby([*keys, "seed"], sort=False)[["error", "value"]]
    table = groups.mean().assign(rank=groups.apply(lambda of: spearmanr(of["error"], of["value"]).statistic))
    over = table.groupby(keys, sort=False)
    half = over["rank"].sem() * student.ppf(0.975, rows["seed"].nunique() - 1)
    return over.mean().assign(rank_half_width=half).reset_index()


def main() -> None:
    """Read the command line, run all screens, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="screens, 3 or more")
    parser.add_argument("--steps", type=int, default=500, help="training steps of each model, 1 or more")
    asked = parser.parse_args()
    if asked.seeds < 3:
        parser.error(f"--seeds is {asked.seeds}; give 3 or more.")
    torch.set_num_threads(1)
    start = time.perf_counter()
    table = summarised(pd.concat([one_screen(asked.steps, seed=seed) for seed in range(asked.seeds)]))
    parameters = {"seed": 0, "seeds": asked.seeds, "steps": asked.steps}
    path = write_results("query-distance", table, parameters, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
