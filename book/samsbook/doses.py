"""Doses that are not binary, measured: effects at a dose that nothing was trained on.

python -m samsbook.doses

Simulated screens of drugs at six doses (`samslib.simulate.dose_response`), the second-largest dose of each withheld.
Every way predicts the effects there, which are compared with the true ones. Writes `data/results/further-doses.csv`
with its provenance.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import norm
from scipy.stats import t as student

import samslib
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData

SCREEN: dict[str, Any] = {"drugs": 12, "levels": 6, "cells": 50, "controls": 300, "genes": 120, "latent": 10}
SIZES = {
    "latent": 30,
    "encoder_width": 128,
    "encoder_layers": 1,
    "decoder_width": 128,
    "decoder_layers": 1,
}  # SAMSVAE's
CPA: dict[str, Any] = SIZES | {"variational": True}
WAYS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    **{f"SAMS-VAE, {c}": (samslib.SAMSVAE, {"dose_curve": c}) for c in ("linear", "sigmoid", "logsigmoid", "monotone")},
    **{f"CPA, {c}": (samslib.CPA, CPA | {"dose_curve": c}) for c in ("linear", "sigm", "logsigm", "network")},
    "CPA, logsigm, deterministic encoder": (samslib.CPA, SIZES | {"dose_curve": "logsigm"}),
}
WITHOUT, BAR = "without a model", "interpolation, log dose"
LEVEL = 0.9  # of the intervals


def screen(*, seed: int) -> tuple[AnnData, PerturbationData, dict[str, PerturbationData], np.ndarray]:
    """A screen, its cells, those to train on and to validate on, and its doses; the second-largest is in neither part.

    Parameters
    ----------
    seed
        Of the screen and of the split.

    Returns
    -------
    tuple
        The AnnData, all cells, "train" and "val", and the doses of every drug in rising order.
    """
    adata = samslib.simulate.dose_response(**SCREEN, seed=seed)
    doses = np.unique(adata.obs["dose"])[1:]
    data = PerturbationData.from_anndata(adata, dose="dose")
    part = np.where(np.random.default_rng(seed).random(len(adata)) < 0.8, "train", "val")
    part[adata.obs["dose"] == doses[-2]] = "test"
    train, val, _ = data.split(part)
    return adata, data, {"train": train, "val": val}, doses


def without_a_model(train: PerturbationData, doses: np.ndarray) -> dict[str, np.ndarray]:
    """Effects at the second-largest dose from those of training cells at the others.

    Parameters
    ----------
    train
        Training cells and controls.
    doses
        Doses of every drug in rising order; cells have no second-largest one.

    Returns
    -------
    dict
        Way -> (T, G) effects.
    """
    lower, wanted, upper = doses[-3:]
    every, names = samslib.data_effects(train), train.perturbations
    low, high = (every[[_label(train, name, dose) for name in names]].X for dose in (lower, upper))
    share = (wanted - lower) / (upper - lower)
    in_logs = np.log(wanted / lower) / np.log(upper / lower)
    return {
        "interpolation, linear dose": (1 - share) * low + share * high,
        BAR: (1 - in_logs) * low + in_logs * high,
        "nearest dose": low if wanted - lower < upper - wanted else high,
        "mean effect": np.broadcast_to(every.X.mean(0), low.shape),
    }


def _label(data: PerturbationData, name: str, dose: float) -> str:
    return data.describe(data.dose_of({name: float(dose)})[0].tolist())


def predicted(way: str, *, seed: int) -> list[dict[str, Any]]:
    """One way on one screen, or all that need no model.

    Parameters
    ----------
    way
        A name in `WAYS`, or `WITHOUT`.
    seed
        Seed of the screen, the weights and the training.

    Returns
    -------
    list
        Rows: way, seed, root mean squared error of the effects (log2) of all drugs and genes, their correlation with
        the true ones, coverage and mean half width of 90% intervals, validation bound and seconds of the
        fit.
    """
    torch.set_num_threads(1)
    adata, data, parts, doses = screen(seed=seed)
    asked = [{name: float(doses[-2])} for name in data.perturbations]
    truth = samslib.simulate.true_effects(adata, asked, seed=seed)
    if way == WITHOUT:
        return [_scores(name, seed, x, truth) for name, x in without_a_model(parts["train"], doses).items()]
    kind, options = WAYS[way]
    model = kind(data.summary(parts["train"]), **options, seed=seed)
    history = samslib.fit(model, parts["train"], parts["val"], FitConfig(seed=seed, progress=False))
    row = _scores(way, seed, samslib.average_effects(model, data, asked, seed=seed).X, truth)
    row |= {"bound": -history["val_loss"].loc[history.attrs["best_step"] :].min(), "seconds": history.attrs["seconds"]}
    if kind is samslib.SAMSVAE:
        table = samslib.posterior_effects(model, data, asked, seed=seed)
        half = norm.ppf((1 + LEVEL) / 2) * np.sqrt(np.maximum(table.layers["posterior_variance"], 0))
        row |= {"coverage": (np.abs(table.X - truth) <= half).mean(), "interval_half_width": half.mean()}
    return [row]


def _scores(way: str, seed: int, found: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    correlation = np.corrcoef(np.ravel(found), np.ravel(truth))[0, 1]
    return {"way": way, "seed": seed, "error": np.sqrt(np.square(found - truth).mean()), "correlation": correlation}


def compared(seeds: int, processes: int = 1) -> pd.DataFrame:
    """Every way on every screen.

    Parameters
    ----------
    seeds
        Number of screens.
    processes
        How many are fitted at a time, of one thread each.

    Returns
    -------
    DataFrame
        A row a way: means over screens, with 95% half widths of the error, of its difference to that of interpolation
        on the same screen, and of the correlation.
    """
    with ProcessPoolExecutor(processes) as pool:
        made = [pool.submit(predicted, way, seed=seed) for seed in range(seeds) for way in (*WAYS, WITHOUT)]
        rows = pd.DataFrame([row for one in made for row in one.result()])
    bar = rows[rows["way"] == BAR].set_index("seed")["error"]
    rows.insert(3, "difference", rows["error"] - rows["seed"].map(bar))
    groups = rows.groupby("way", sort=False)
    table = groups.mean().drop(columns="seed")
    for name in ("correlation", "difference", "error"):
        half = groups[name].sem() * student.ppf(0.975, seeds - 1)
        table.insert(table.columns.get_loc(name) + 1, f"{name}_half_width", half)
    return table.reset_index()


def main() -> None:
    """Read the command line, run all, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="screens, 3 or more")
    parser.add_argument("--processes", type=int, default=1, help="fits at a time, of one thread each")
    asked = parser.parse_args()
    if asked.seeds < 3:
        parser.error(f"--seeds is {asked.seeds}; give 3 or more.")
    start = time.perf_counter()
    table = compared(asked.seeds, asked.processes)
    parameters = {"seed": 0, "seeds": asked.seeds}
    path = write_results("further-doses", table, parameters, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
