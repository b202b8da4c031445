"""A simulated screen of the size of the paper's, on a GPU: every model's bound, effects and minutes.

python -m samsbook.full_size                                                            minutes on one GPU
python -m samsbook.full_size --widths --perturbations 300 --cells 60 --genes 500        what wider networks gain
python -m samsbook.full_size --perturbations 20 --cells 20 --steps 50                   a trial

118,641 cells of 1,187 genes and 722 perturbations, as Replogle's filtered screen has; what they do is simulated, so the
truth is known. Each model is fitted in a process of its own. The table goes to `data/results/full-size.csv`, that of
widths, on a smaller screen and without a GPU, to `full-size-widths.csv`, each with its provenance.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import anndata
import pandas as pd
import torch

import samslib
from samsbook.beyond import true_masks
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData
from samslib.evaluate.recovery import mask_recovery
from samslib.model import Model

SCREEN = {"pairs": 0, "latent": 50, "mask_probability": 0.05, "effect_scale": 2.0, "gene_spread": 1.2}
PAPER = {"latent": 100}  # the smaller of the two sizes in the published grid
WAYS: dict[str, tuple[Callable[..., Model], dict[str, Any], Callable[..., FitConfig]]] = {
    "SAMS-VAE": (samslib.SAMSVAE, {}, FitConfig),
    "SAMS-VAE, published settings": (samslib.SAMSVAE.paper, PAPER, FitConfig.paper),
    "CPA-VAE": (samslib.CPAVAE, PAPER, FitConfig),
    "SVAE+": (samslib.SVAEPlus, PAPER, FitConfig),
    "conditional VAE": (samslib.ConditionalVAE, PAPER, FitConfig),
}
WIDTHS = {
    **{
        f"SAMS-VAE, {units} units": (samslib.SAMSVAE, {"encoder_width": units, "decoder_width": units}, FitConfig)
        for units in (128, 400)
    },
    "CPA-VAE, 400 units": WAYS["CPA-VAE"],
}
CORES = os.cpu_count() or 1
SCORED = 8192  # test cells whose bound is taken


def fitted(way: str, folder: str, steps: int | None, *, seed: int) -> dict[str, Any]:
    """One model on the screen; its effects are left in the folder.

    Parameters
    ----------
    way
        A name in `WAYS` or `WIDTHS`.
    folder
        Where "cells.h5ad" lies.
    steps
        Of training; None for the rule of `FitConfig()`, also for the published settings, which have 150,000.
    seed
        Of split, weights and training.

    Returns
    -------
    dict
        The model's name, steps, minutes of training, held-out bound in nats a cell, and of a model with masks their F1
        (axes matched) and the share of undecided ones.
    """
    torch.set_num_threads(max(1, CORES // len(WAYS)))
    adata = anndata.read_h5ad(Path(folder) / "cells.h5ad")
    data = PerturbationData.from_anndata(adata)
    train, val, test = data.split(samslib.splits.random(seed=seed))
    make, sizes, configure = (WAYS | WIDTHS)[way]
    steps = steps or FitConfig().length(len(train))[1]
    model = make(data.summary(train), **sizes, seed=seed)
    history = samslib.fit(model, train, val, configure(steps=steps, seed=seed, progress=False))
    samslib.average_effects(model, data, seed=seed).write_h5ad(Path(folder) / f"{way}.h5ad")
    row = {"model": way, "axes": model.options["latent"], "steps": steps, "minutes": history.attrs["seconds"] / 60}
    row["bound"] = samslib.held_out_iwelbo(model, test[:SCORED], 100, seed=seed)["iwelbo"].mean()
    if isinstance(model, samslib.SAMSVAE):
        on = model.mask_logits.detach().sigmoid().cpu().numpy()
        row["f1"] = mask_recovery(true_masks(adata, data), on)["f1"].iloc[0]
        row["undecided"] = float(((on > 0.1) & (on < 0.9)).mean())
    print({name: value for name, value in row.items()}, flush=True)
    return row


def table(perturbations: int, cells: int, genes: int, steps: int | None, widths: bool, *, seed: int) -> pd.DataFrame:
    """All models, or two at certain widths, and the predictors from training cells alone, on one screen.

    Parameters
    ----------
    perturbations, cells, genes
        Their numbers, the second of each perturbation; there are controls for 69 of them.
    steps
        As in `fitted`.
    widths
        Whether to fit `WIDTHS` instead of `WAYS`.
    seed
        Of the screen and of all that follows.

    Returns
    -------
    DataFrame
        A row a model or predictor: what `fitted` returns, and the pooled correlation of effects with those of held-out
        cells beside its ceiling.
    """
    ways = list(WIDTHS if widths else WAYS)
    with tempfile.TemporaryDirectory() as folder:
        adata = samslib.simulate.perturb_seq(
            singles=perturbations, cells=cells, genes=genes, controls=69 * cells - 9, library=(3000.0, 0.4), seed=seed,
            **SCREEN,
        )  # fmt: skip
        adata.write_h5ad(Path(folder) / "cells.h5ad")
        data = PerturbationData.from_anndata(adata)
        with ProcessPoolExecutor(min(len(ways), CORES), mp_context=get_context("spawn")) as pool:
            made = [pool.submit(fitted, way, folder, steps, seed=seed) for way in ways]
            rows = pd.DataFrame([one.result() for one in made])
        effects = {way: anndata.read_h5ad(Path(folder) / f"{way}.h5ad") for way in ways}
    scored = samslib.score_table(effects, data, samslib.splits.random(seed=seed), resamples=2, references=["held out"])
    pooled = scored.query("perturbation == 'pooled' and score == 'pearson'")[["model", "value", "ceiling"]]
    return pooled.rename(columns={"value": "correlation"}).merge(rows, how="left", on="model")


def main() -> None:
    """Read the command line, run all models, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in {"perturbations": 722, "cells": 150, "genes": 1187}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--steps", type=int, help="of training; by the library's rule if not given")
    parser.add_argument("--widths", action="store_true", help="fit SAMS-VAE and CPA-VAE at certain widths, no more")
    parser.add_argument("--seed", type=int, default=0)
    asked = vars(parser.parse_args())
    start = time.perf_counter()
    try:
        made = table(**asked)
    except ValueError as error:  # sizes of which there is no screen, or no training
        parser.error(str(error))
    path = write_results(
        "full-size-widths" if asked["widths"] else "full-size", made, asked, seconds=time.perf_counter() - start
    )
    print(made.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
