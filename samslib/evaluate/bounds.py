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
from samslib.evaluate.streams import cell_blocks, evaluating, reseed
from samslib.model import Model
from samslib.objective import log_weights
from samslib.trace import Trace
from samslib.validation import whole

PARTICLES, CELLS = 25, 128  # draws and cells of a tile: fixed, so that no number depends on how the work is cut


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
    return _by_cell(data, {"iwelbo": total - np.log(particles)})


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
    rows = []
    for s in range(seed, seed + repeats):
        scores = held_out_iwelbo(model, data, particles, seed=s)["iwelbo"]
        rows.append({"seed": s, "iwelbo": scores.mean(), "standard_error": scores.sem()})
    return pd.DataFrame(rows)


def bound_by_particles(
    model: Model, data: PerturbationData, particles: Sequence[int] = (1, 2, 5, 10, 20, 50, 100), *, seed: int = 0
) -> pd.DataFrame:
    """The held-out bound as a function of the number of particles K, from one set of max(particles) draws.

    The draws are cut into as many groups of K as fit, and the bound at K is the mean over groups, so that small K
    are
    not
    noisier than large ones. (max K, cells) weights are held in memory.

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
        bound = (parted.logsumexp(1) - np.log(K)).mean(0).numpy()
        error = bound.std(ddof=1) / np.sqrt(len(bound)) if len(bound) > 1 else np.nan
        rows.append({"particles": K, "groups": groups, "iwelbo": bound.mean(), "standard_error": error})
    return pd.DataFrame(rows)


def _tiles(model: Model, data: PerturbationData, particles: int, seed: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """(draws, cells, log weights (draws, cells) in float64), each tile with a random stream of its own, within which
    as many cells are decoded at once as ELEMENTS allows."""
    data = align(data, model)
    with evaluating(model, seed) as like:
        for block, first in enumerate(range(0, particles, PARTICLES)):
            P = min(PARTICLES, particles - first)
            reseed(seed, block)
            shared = Trace(P)
            model.infer_shared(shared)
            for tile, start in enumerate(range(0, len(data), CELLS)):
                reseed(seed, block, tile)
                cells = slice(start, min(start + CELLS, len(data)))
                b = data.batch(cells, dtype=like.dtype).to(like.device)
                q = Trace(P, given=shared.values)
                model.infer_cells(q, b)
                parts = list(cell_blocks(b, P))
                drawn = {n: site.value for n, site in q.sites.items() if site.plate is Plate.CELL}
                for part in parts:
                    if len(parts) > 1:
                        q = Trace(P, given=shared.values | {n: value[:, part] for n, value in drawn.items()})
                        model.infer_cells(q, b[part])
                    terms = log_weights(model, b[part], q)
                    weights = torch.stack([term.double() for term in terms.values()]).sum(0)
                    yield slice(first, first + P), slice(start + part.start, start + part.stop), weights


def _by_cell(data: PerturbationData, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    index = pd.Index(data.cells, name="cell")
    return pd.DataFrame({"perturbation": np.asarray(data.labels)} | columns, index=index)
