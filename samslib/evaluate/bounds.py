"""The held-out bound of a model on cells, as DataFrames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from samslib.alignment import align
from samslib.cells import Plate
from samslib.data.container import PerturbationData
from samslib.evaluate.streams import PARTICLES, draw_shared, encode, evaluating, portions, reseed
from samslib.model import Model
from samslib.objective import log_weights
from samslib.validation import whole

CELLS = 128  # of a tile: fixed, so that no number depends on how the work is cut


def held_out_iwelbo(model: Model, data: PerturbationData, particles: int = 100, *, seed: int = 0) -> pd.DataFrame:
    """Importance-weighted lower bound on log p(x) of every cell, given shared latents drawn from the posterior.

    One set of draws of the shared latents serves all cells, as published, and their divergence is not part of the
    bound. Neither memory nor numbers depend on how the work is cut.

    Parameters
    ----------
    model
        A trained model.
    data
        The cells to be scored, usually the test part of a split.
    particles
        Number of draws of the latents, at least 1. The bound rises with it, so compare only equal numbers.
    seed
        Seed of the draws.

    Returns
    -------
    DataFrame
        One row a cell, indexed by its name: "perturbation" and "iwelbo", in nats, summed over genes.

    Raises
    ------
    ValueError
        For fewer than one particle.

    References
    ----------
    Burda et al. (2016), Importance weighted autoencoders.
    """
    particles, total = whole("particles", particles, 1), np.full(len(data), -np.inf)
    for _, rows, weights in _tiles(model, data, particles, seed):
        total[rows] = np.logaddexp(total[rows], weights.logsumexp(0).cpu().numpy())
    columns = {"perturbation": np.asarray(data.labels), "iwelbo": total - np.log(particles)}
    return pd.DataFrame(columns, pd.Index(data.cells, name="cell"))


def bound_spread(
    model: Model, data: PerturbationData, particles: int = 100, repeats: int = 5, *, seed: int = 0
) -> pd.DataFrame:
    """How much the held-out bound varies with the draws of the shared latents.

    Parameters
    ----------
    model
        A trained model.
    data
        The cells to be scored.
    particles
        Number of draws of each repeat; see `held_out_iwelbo`.
    repeats
        Number of independent sets of draws.
    seed
        Seed of the first repeat; the others have the seeds that follow.

    Returns
    -------
    DataFrame
        One row a repeat: "seed", "iwelbo" (mean over cells, nats) and "standard_error" of that mean over cells at
        fixed draws. All cells share a set, so the spread of "iwelbo" between rows does not fall with more cells.
    """
    scores = {s: held_out_iwelbo(model, data, particles, seed=s)["iwelbo"] for s in range(seed, seed + repeats)}
    rows = [{"seed": s, "iwelbo": bound.mean(), "standard_error": bound.sem()} for s, bound in scores.items()]
    return pd.DataFrame(rows)


def bound_by_particles(
    model: Model, data: PerturbationData, particles: Sequence[int] = (1, 2, 5, 10, 20, 50, 100), *, seed: int = 0
) -> pd.DataFrame:
    """The held-out bound as a function of the number of particles K, from one set of max(particles) draws.

    The draws are cut into as many groups of K as fit, and the bound at K is the mean over groups, so that small K
    are not noisier than large ones. (max K, cells) weights are held in memory.

    Parameters
    ----------
    model
        A trained model.
    data
        The cells to be scored.
    particles
        The numbers K, each at least 1.
    seed
        Seed of the draws.

    Returns
    -------
    DataFrame
        One row a K: "particles", "groups", "iwelbo" (mean over cells, nats), "standard_error" of that mean over
        cells.

    Raises
    ------
    ValueError
        For a K below 1.
    """
    particles = [whole("particles", K, 1) for K in particles]
    weights = np.empty((max(particles), len(data)))
    for draws, cells, tile in _tiles(model, data, len(weights), seed):
        weights[draws, cells] = tile.cpu().numpy()
    rows = []
    for K in particles:
        groups = len(weights) // K
        parted = torch.from_numpy(weights[: groups * K]).view(groups, K, -1)
        bound = pd.Series((parted.logsumexp(1) - np.log(K)).mean(0).numpy())
        rows.append({"particles": K, "groups": groups, "iwelbo": bound.mean(), "standard_error": bound.sem()})
    return pd.DataFrame(rows)


def _tiles(model: Model, data: PerturbationData, particles: int, seed: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """(draws, cells, log weights (draws, cells) in float64), each tile with a random stream of its own, within which
    as many cells are decoded at once as ELEMENTS allows."""
    data = align(data, model)
    with evaluating(model, seed) as like:
        for block, shared in draw_shared(model, particles, seed, {}):
            draws = slice(block * PARTICLES, block * PARTICLES + shared.particles)
            for tile, start in enumerate(range(0, len(data), CELLS)):
                reseed(seed, block, tile)
                b = data.batch(slice(start, min(start + CELLS, len(data))), dtype=like.dtype).to(like.device)
                drawn = encode(model, b, shared)
                for part in portions(len(b), shared.particles * len(data.genes)):
                    own = {n: site.value[:, part] for n, site in drawn.sites.items() if site.plate is Plate.CELL}
                    q = drawn if part == slice(0, len(b)) else encode(model, b[part], shared, own)
                    weights = torch.stack([term.double() for term in log_weights(model, b[part], q).values()]).sum(0)
                    yield draws, slice(start + part.start, start + part.stop), weights
