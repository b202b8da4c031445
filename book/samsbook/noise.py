"""How much simulation noise is in an average effect, plain and with control variates (`make noise`).

A SAMS-VAE is fitted to simulated screens of about 200 and 2,000 counts a cell. Its effects are then made several times
over with other seeds, with more and more particles: the spread between repeats is the noise, the reported standard
error what a user sees of it, and the correlation with the effects of held-out cells what it costs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd
import torch

import samslib
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData, fit

PARTICLES = (100, 250, 500, 1000, 2500, 5000)
DEPTHS = (200, 2000)


def fitted(depth: float, genes: int = 200, steps: int = 1500, *, seed: int = 0) -> tuple[samslib.SAMSVAE, tuple]:
    """A SAMS-VAE fitted to a simulated screen of 20 perturbations and 5 pairs.

    Parameters
    ----------
    depth
        Median of the expected counts of a cell.
    genes
        Number of genes.
    steps
        Number of training steps.
    seed
        Seed of the screen, the split, the weights and the training.

    Returns
    -------
    tuple
        The model, and the training, validation and test cells.
    """
    screen = samslib.simulate.perturb_seq(20, 5, 80, 400, genes, latent=10, library=(depth, 0.4), seed=seed)
    parts = PerturbationData.from_anndata(screen).split(samslib.splits.random(seed=seed))
    model = samslib.SAMSVAE.paper(
        parts[0].summary(), latent=15, encoder_width=64, decoder_width=64, posterior="mean_field", seed=seed
    )
    config = FitConfig.paper(steps=steps, learning_rate=3e-3, particles=2, batch_size=128, seed=seed, progress=False)
    fit(model, parts[0], None, config)
    return model, parts


def noise(
    model: samslib.SAMSVAE, data: PerturbationData, held_out: PerturbationData, particles: int, on: bool, repeats: int
) -> dict[str, float]:
    """What repeats of the same effects with other seeds differ by.

    Parameters
    ----------
    model
        A trained model.
    data
        Cells with the controls that lend their libraries.
    held_out
        Cells whose effects are compared with.
    particles
        Number of particles.
    on
        Whether control variates are used.
    repeats
        Number of repeats, 2 or more.

    Returns
    -------
    dict
        Over perturbations and genes, root mean squares of the standard deviation between repeats ("spread") and of the
        reported "standard error"; "noise", the variance between repeats as a share of the effects' variance;
        "correlation" of all entries with the held-out effects, mean over repeats; "seconds" a repeat.
    """
    observed = samslib.data_effects(held_out)
    start = time.perf_counter()
    runs = [
        samslib.average_effects(model, data, observed.obs_names, particles, control_variates=on, seed=seed)
        for seed in range(repeats)
    ]
    seconds = (time.perf_counter() - start) / repeats
    effects = np.stack([run.X for run in runs])
    variance = effects.var(0, ddof=1).mean()
    return {
        "spread": np.sqrt(variance),
        "standard error": np.sqrt(np.mean([run.layers["standard_error"] ** 2 for run in runs])),
        "noise": variance / effects.mean(0).var(),
        "correlation": np.mean([np.corrcoef(one.ravel(), observed.X.ravel())[0, 1] for one in effects]),
        "seconds": seconds,
    }


def table(
    depths: tuple[float, ...] = DEPTHS,
    particles: tuple[int, ...] = PARTICLES,
    repeats: int = 8,
    *,
    seed: int = 0,
    **screen: int,
) -> pd.DataFrame:
    """`noise` for every depth, estimator and number of particles.

    Parameters
    ----------
    depths
        Median counts of a cell of the screens.
    particles
        Numbers of particles.
    repeats
        Number of repeats of each, 2 or more.
    seed
        Seed of screens and training.
    screen
        Further arguments of `fitted`.

    Returns
    -------
    DataFrame
        A row for each depth, estimator and number of particles.
    """
    rows = []
    for depth in depths:
        model, (train, _, test) = fitted(depth, seed=seed, **screen)
        for name, on in (("plain", False), ("control variates", True)):
            for count in particles:
                keys = {"counts a cell": depth, "estimator": name, "particles": count, "repeats": repeats}
                rows.append(keys | noise(model, train, test, count, on, repeats))
    return pd.DataFrame(rows)


def main() -> None:
    """Read the command line, and write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=8, help="repeats of each number of particles, 2 or more")
    repeats = parser.parse_args().repeats
    if repeats < 2:
        parser.error(f"--repeats is {repeats}; a spread needs 2 or more.")
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = table(repeats=repeats)
    path = write_results("effect-noise", found, {"seed": 0, "repeats": repeats}, seconds=time.perf_counter() - start)
    print(found.to_string(index=False, float_format="{:.4g}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
