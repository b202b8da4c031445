"""What ensembles, calibrated intervals and the ranked list are worth, measured.

python -m samsbook.coverage ensembles   one fit beside 3 and 5 that differ by seed, on two real screens

Each writes `data/results/further-<name>.csv` with its provenance. With --checkpoints a run that was ended goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch

import samslib
from samsbook.beyond import _pooled, real
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData

REAL = ("norman-devel", "tapseq")
MEMBERS = 5


def members(
    data: PerturbationData, seed: int, number: int, folder: Path | None, **config: int
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
    config
        Further settings of `FitConfig`.
    """
    train, val, _ = data.split(samslib.splits.random(seed=seed))
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


def main() -> None:
    """Read the command line, run what it names, and write and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of: dict[str, Callable[[int, Path | None], pd.DataFrame]] = {"ensembles": ensembles}
    parser.add_argument("what", choices=tuple(of))
    parser.add_argument("--splits", type=int, default=3, help="splits of each real screen")
    parser.add_argument("--checkpoints", type=Path, help="folder in which training is saved and from which it goes on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    table = of[asked.what](asked.splits, asked.checkpoints)
    parameters = {"seed": 0, "splits": asked.splits}
    path = write_results(f"further-{asked.what}", table, parameters, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
