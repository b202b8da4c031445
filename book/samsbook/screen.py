"""Every model, baseline and data-only predictor on a real screen, by guide and by target, over splits of its cells.

python -m samsbook.screen book/runs/04_replogle/tapseq.yaml
python -m samsbook.screen book/runs/04_replogle/tapseq.yaml --effects     the effects themselves, of SAMS-VAE and cells

The first writes two tables to data/results: scores of each model by level, and by target how alike the effects of its
guides are and what becomes of the target's own gene.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.metrics.pairwise import cosine_similarity

import samslib
from samsbook.beyond import real
from samsbook.results import write_results
from samslib.evaluate.predictors import predictors
from samslib.model import Model
from samslib.training import FitConfig, fit, prepare

KINDS: dict[str, type[Model]] = {
    "SAMS-VAE": samslib.SAMSVAE,
    "SAMS-VAE, learned sparsity": samslib.BetaBernoulliSAMSVAE,
    "CPA-VAE": samslib.CPAVAE,
    "SVAE+": samslib.SVAEPlus,
    "conditional VAE": samslib.ConditionalVAE,
    "CPA": samslib.CPA,
    **{name.replace("_", " "): kind for name, kind in samslib.BASELINES.items()},
}


def trained(
    name: str,
    train: samslib.PerturbationData,
    val: samslib.PerturbationData,
    sizes: dict[str, int],
    steps: int | None = None,
    *,
    seed: int,
) -> tuple[Model, float]:
    """One model at the library's defaults, and its seconds of training.

    Parameters
    ----------
    name
        A name in `KINDS`.
    train, val
        Cells as the model takes them.
    sizes
        Options of which a model uses those that it has.
    steps
        Of training; None for the rule of `FitConfig`.
    seed
        Of weights and training.

    Returns
    -------
    tuple
        The model, and seconds.
    """
    kind = KINDS[name]
    torch.manual_seed(seed)
    model = kind(train.summary(pseudobulk="pseudobulk" in kind.needs), **kind.accepted(sizes))
    history = fit(model, train, val, FitConfig(steps=steps, seed=seed, progress=False))
    return model, history.attrs["seconds"]


def scores(
    tables: dict[str, anndata.AnnData], data: samslib.PerturbationData, split: np.ndarray, resamples: int = 100
) -> pd.DataFrame:
    """Correlation with held-out cells, pooled, of guides and of targets, each under its ceiling.

    Parameters
    ----------
    tables
        Effects of guides, by model.
    data
        All cells, with targets.
    split
        (n,) part of each cell.
    resamples
        Bootstrap resamples of cells.

    Returns
    -------
    DataFrame
        A row a level and model: value, low, high, ceiling.
    """
    asked: dict[str, Any] = {"resamples": resamples, "references": ["held out"]}
    train = data[split == "train"]
    grouped = {name: samslib.by_target(table, train) for name, table in tables.items()}
    labels = [data.target_of(label) or data.control for label in data.labels]
    cells = anndata.AnnData(data.x, pd.DataFrame({"perturbation": labels}, data.cells), pd.DataFrame(index=data.genes))
    levels = {
        "guides": (tables, data),
        "targets": (grouped, samslib.PerturbationData.from_anndata(cells, separator="|")),
    }
    found = [
        samslib.score_table(table, cells, split, **asked).assign(level=level)
        for level, (table, cells) in levels.items()
    ]
    pooled = pd.concat(found).query("perturbation == 'pooled' and score == 'pearson'")
    return pooled[["level", "model", "value", "low", "high", "ceiling"]].rename(columns={"value": "correlation"})


def of_targets(tables: dict[str, anndata.AnnData], data: samslib.PerturbationData) -> pd.DataFrame:
    """How alike the guides of each target are, and the effect on the target's own gene where the panel has it.

    Parameters
    ----------
    tables
        Effects of guides, by model or predictor.
    data
        Cells with targets.

    Returns
    -------
    DataFrame
        A row a model and target: "within", the mean cosine between the effects of its guides; "between", that with
        guides of other targets; "own gene", the mean effect on the gene of that name, on the readout's scale.
    """
    rows = []
    for name, table in tables.items():
        target = np.array([data.target_of(guide) for guide in table.obs_names])
        alike = cosine_similarity(table.X)
        np.fill_diagonal(alike, np.nan)
        for t in np.unique(target):
            own = target == t
            row = {"model": name, "target": t, "within": np.nanmean(alike[np.ix_(own, own)])}
            row["between"] = alike[np.ix_(own, ~own)].mean()
            row["own gene"] = table[own, t].X.mean() if t in table.var_names else np.nan
            rows.append(row)
    return pd.DataFrame(rows).astype({"own gene": float})


def one_split(parameters: dict[str, Any], *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All models on one split of the cells.

    Parameters
    ----------
    parameters
        Of the parameter file: dataset, latent, width, particles, score_particles, and steps unless by rule.
    seed
        Of the split, of weights and training.

    Returns
    -------
    tuple
        The table of scores and that of targets.
    """
    sizes = {"latent": parameters["latent"]} | dict.fromkeys(("encoder_width", "decoder_width"), parameters["width"])
    data = real(parameters["dataset"])
    split = samslib.splits.random(seed=seed)(data)
    train, test = data[split == "train"], data[split == "test"]
    tables, facts = {}, []
    for name in KINDS:
        start = time.perf_counter()
        given = prepare(KINDS[name], data)
        parts = given[split == "train"], given[split == "val"]
        model, seconds = trained(name, *parts, sizes, parameters.get("steps"), seed=seed)
        tables[name] = samslib.average_effects(model, given, particles=parameters["particles"], seed=seed)
        bound = samslib.held_out_iwelbo(model, given[split == "test"], parameters["score_particles"], seed=seed)
        facts.append({"model": name, "bound": bound["iwelbo"].mean(), "seconds": seconds})
        print(f"split {seed}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
    table = scores(tables, data, split).merge(pd.DataFrame(facts), how="left", on="model")
    seen = {"training cells": samslib.data_effects(train), "held-out cells": samslib.data_effects(test)}
    seen |= predictors(train, data[split == "val"], data)
    return table.assign(seed=seed), of_targets(tables | seen, data).assign(seed=seed)


def effects(parameters: dict[str, Any], *, seed: int) -> pd.DataFrame:
    """Effects of targets by SAMS-VAE, and in the held-out cells, on one split.

    Parameters
    ----------
    parameters
        As of `one_split`.
    seed
        Of the split, of weights and training.

    Returns
    -------
    DataFrame
        A row a target and gene: "model" and "cells", on the readout's scale.
    """
    sizes = {"latent": parameters["latent"]} | dict.fromkeys(("encoder_width", "decoder_width"), parameters["width"])
    data = real(parameters["dataset"])
    split = samslib.splits.random(seed=seed)(data)
    train, test = data[split == "train"], data[split == "test"]
    model, _ = trained("SAMS-VAE", train, data[split == "val"], sizes, parameters.get("steps"), seed=seed)
    predicted = samslib.average_effects(model, data, particles=parameters["particles"], seed=seed)
    tables = {"model": predicted, "cells": samslib.data_effects(test)}
    columns = {name: samslib.by_target(table, train).to_df().stack() for name, table in tables.items()}
    return pd.DataFrame(columns).rename_axis(["target", "gene"]).reset_index().assign(seed=seed)


def main() -> None:
    """Read the parameter file, run it, and write both tables, or that of effects."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parameters", type=Path, help="a file such as book/runs/04_replogle/tapseq.yaml")
    parser.add_argument("--effects", action="store_true", help="write the effects by gene, of SAMS-VAE alone")
    asked = parser.parse_args()
    parameters = yaml.safe_load(asked.parameters.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    start = time.perf_counter()
    seeds = range(parameters["seeds"])
    made: list[tuple[pd.DataFrame, ...]]
    if asked.effects:
        made = [(effects(parameters, seed=seed),) for seed in seeds]
    else:
        made = [one_split(parameters, seed=seed) for seed in seeds]
    facts = {"data_sha256": samslib.datasets.sha256(parameters["dataset"]), "seconds": time.perf_counter() - start}
    suffixes = ("-effects",) if asked.effects else ("", "-targets")
    for suffix, parts in zip(suffixes, zip(*made, strict=True), strict=True):
        table = pd.concat(parts, ignore_index=True)
        path = write_results(f"{parameters['results']}{suffix}", table, parameters | {"seed": 0}, **facts)
        print(f"Written to {path.name}.")


if __name__ == "__main__":
    main()
