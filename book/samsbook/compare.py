"""Every model, baseline and data-only predictor on one data set, trained shortly and scored side by side.

python -m samsbook.compare                  the bundled pairs, a few minutes on one core
python -m samsbook.compare --models sams_vae additive --steps 2000 --seed 1
python -m samsbook.compare --write          also writes data/results/scores-small.csv, with where it came from
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
import torch

from samsbook.results import write_results
from samslib import datasets
from samslib.data import quality
from samslib.data.container import PerturbationData
from samslib.data.splits import combinations, random
from samslib.evaluate.bounds import held_out_iwelbo
from samslib.evaluate.effects import average_effects, sample_cells
from samslib.evaluate.scores import cell_scores, score_table
from samslib.model import Model
from samslib.models import BASELINES, MODELS
from samslib.training import FitConfig, fit, prepare

KINDS: dict[str, type[Model]] = MODELS | BASELINES

NAMES = {  # of the models, as the book writes them
    "sams_vae": "SAMS-VAE",
    "learned_sparsity": "SAMS-VAE, learned sparsity",
    "cpa_vae": "CPA-VAE",
    "svae_plus": "SVAE+",
    "conditional_vae": "conditional VAE",
    "cradle_vae": "CRADLE-VAE",
    "cpa": "CPA",
}

SMALL = {"latent": 15, "encoder_width": 64, "decoder_width": 64, "embedding_width": 64}

CELLS = 50  # generated of each condition

SHOWN = ("pearson", "pearson_top20", "r2", "cosine", "rmse", "jaccard_top20", "rank_cosine", "interaction_pearson")


def train_one(
    name: str, data: PerturbationData, split: np.ndarray, steps: int, *, seed: int = 0
) -> tuple[Model, PerturbationData]:
    """One model, trained on the training cells of a split.

    Parameters
    ----------
    name
        A name of `KINDS`.
    data
        All cells; pairs become perturbations of their own for a model that takes no combinations.
    split
        (n,) "train", "val" or "test" of each cell.
    steps
        Training steps.
    seed
        Of initial weights and training.

    Returns
    -------
    tuple
        The model, and the data as it takes them.
    """
    kind = KINDS[name]
    data = prepare(kind, data)
    train, val = data[split == "train"], data[split == "val"]
    if "twins" in kind.uses:
        train, val = quality.with_twins(train), quality.with_twins(val)
    torch.manual_seed(seed)
    model = kind.paper(data.summary(train, pseudobulk="pseudobulk" in kind.needs), **kind.accepted(SMALL))
    config = FitConfig.paper(
        steps=steps, batch_size=128, learning_rate=0.01, particles=2, clip=10.0, seed=seed,
        validate_every=max(1, steps // 5), progress=False,
    )  # fmt: skip
    fit(model, train, val, config)
    return model, data


def compare(
    dataset: str = "sams-pairs",
    models: Sequence[str] = tuple(KINDS),
    holdout: str = "cells",
    steps: int = 600,
    particles: int = 1000,
    bound_particles: int = 30,
    resamples: int = 100,
    *,
    quiet: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Train every model shortly and score it, beside predictors from data alone.

    Rows of score "iwelbo" hold the mean held-out bound of the test cells, in nats, with its 95% interval over
    cells; those of "energy" and "mmd" the `cell_scores` of 50 generated cells a condition against the test cells.

    Parameters
    ----------
    dataset
        A name of `samslib.datasets`, of counts with controls.
    models
        Names of `KINDS`.
    holdout
        "cells" at random, or "combinations": pairs of which no cell is in training.
    steps
        Training steps of each model.
    particles
        Draws for each average effect.
    bound_particles
        Draws for each held-out bound.
    resamples
        Bootstrap resamples of cells for each interval.
    quiet
        Do not print seconds to stderr.
    seed
        Of the split, the models and all draws.

    Returns
    -------
    DataFrame
        `score_table` with these rows; `attrs["seconds"]` is the time taken.

    Raises
    ------
    ValueError
        For an unknown model or holdout.
    """
    start = time.perf_counter()
    if unknown := [name for name in models if name not in KINDS]:
        raise ValueError(f"There is no model {unknown[0]!r}; choose from {', '.join(KINDS)}.")
    if holdout not in ("cells", "combinations"):
        raise ValueError(f"holdout is {holdout!r}; choose 'cells' or 'combinations'.")
    data = PerturbationData.from_anndata(datasets.load(dataset))
    splitter = random(seed=seed) if holdout == "cells" else combinations(0.0, test=1.0, seed=seed)
    split = splitter(data)
    tables: dict[str, anndata.AnnData] = {}
    rows = []
    for name in models:
        began = time.perf_counter()
        model, own = train_one(name, data, split, steps, seed=seed)
        tables[name] = average_effects(model, own, particles=particles, seed=seed)
        test = own[split == "test"]
        bound = held_out_iwelbo(model, test, bound_particles, seed=seed)["iwelbo"]
        half = 1.96 * bound.sem()
        interval = {"value": bound.mean(), "low": bound.mean() - half, "high": bound.mean() + half}
        rows.append(pd.DataFrame([{"model": name, "perturbation": "pooled", "score": "iwelbo"} | interval]))
        drawn = sample_cells(model, own, sorted(set(test.labels)), cells=CELLS, seed=seed)
        rows.append(cell_scores(drawn, test, resamples=resamples, seed=seed).assign(model=name))
        if not quiet:
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    table = score_table(tables, data, split, resamples=resamples, seed=seed)
    controls = table.attrs["controls"]
    table = pd.concat([table, *(part.assign(reference="held out") for part in rows)], ignore_index=True)
    table.attrs = {"controls": controls, "seconds": time.perf_counter() - start}
    return table


def side_by_side(table: pd.DataFrame, scores: Sequence[str] = SHOWN) -> str:
    """The pooled scores as text: "value [low, high]" against each reference, with the ceiling on top.

    Parameters
    ----------
    table
        What `compare` returned.
    scores
        Scores to show; those of cells and the bound are always shown.

    Returns
    -------
    str
        A block a score, a row a model, the best held-out value first.
    """
    pooled = table[table["perturbation"] == "pooled"]
    blocks = []
    for score in [s for s in (*scores, "energy", "mmd", "iwelbo") if s in set(pooled["score"])]:
        rows = pooled[pooled["score"] == score]
        fields = zip(rows["value"], rows["low"], rows["high"], strict=True)
        shown = rows.assign(text=[f"{v:.3f} [{low:.3f}, {high:.3f}]" for v, low, high in fields])
        wide = shown.pivot(index="model", columns="reference", values="text")
        ascending = score.startswith(("rmse", "rank", "energy", "mmd"))
        order = rows[rows["reference"] == "held out"].sort_values("value", ascending=ascending)["model"]
        wide = wide.loc[order, [r for r in ("held out", "all cells") if r in wide]].fillna("")
        ceiling = rows.groupby("reference")["ceiling"].first().dropna()
        ceilings = ", ".join(f"{reference} {ceiling[reference]:.3f}" for reference in wide if reference in ceiling)
        head = f"{score}   (ceiling: {ceilings})" if ceilings else score
        blocks.append(f"{head}\n{wide.to_string(header=True)}")
    return "\n\n".join(blocks)


def main(arguments: list[str] | None = None) -> int:
    """The command line of the module's text. Returns the exit status."""
    parser = argparse.ArgumentParser("python -m samsbook.compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="sams-pairs", help="a name of samslib.datasets, of counts with controls")
    parser.add_argument("--models", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="NAME")
    parser.add_argument("--holdout", default="cells", choices=("cells", "combinations"))
    for name, default in (
        ("steps", 600),
        ("particles", 1000),
        ("bound-particles", 30),
        ("resamples", 100),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--write", nargs="?", const="scores-small", help="name of the table in data/results")
    options = vars(parser.parse_args(arguments))
    name = options.pop("write")
    table = compare(**options, quiet=False)
    print(side_by_side(table))
    print(f"\n{table.attrs['seconds']:.0f} s; controls of the held-out reference: {table.attrs['controls']} cells.")
    if name:
        known = table[table["perturbation"].isin(["pooled", "median"])]
        path = write_results(
            name,
            known.assign(**{c: known[c].astype(float) for c in ("value", "low", "high", "ceiling")}),
            options | {"models": ", ".join(options["models"])},
            datasets.sha256(options["dataset"]),
            table.attrs["seconds"],
        )
        print(f"Written to {path.relative_to(path.parents[2])}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
