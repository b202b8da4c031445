"""Random streams and portions of work, so that no number depends on memory or order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from samslib.cells import Batch, Plate
from samslib.model import Model
from samslib.trace import Trace

PARTICLES = 25  # draws of a block: fixed, so that no number depends on how the work is cut
ELEMENTS = 2**24  # largest number of (particle, cell, gene) values held at once


@contextmanager
def evaluating(model: Model, seed: int) -> Iterator[torch.nn.Parameter]:
    """A context without gradients, in evaluation mode and with a seeded random stream; all are put back afterwards.

    Parameters
    ----------
    model
        The model to be evaluated.
    seed
        Seed of the random stream.

    Returns
    -------
    Iterator
        Of one parameter of the model, for its dtype and device.
    """
    parameter, was_training = next(model.parameters()), model.training
    with torch.no_grad(), torch.random.fork_rng([parameter.device] if parameter.is_cuda else []):
        torch.manual_seed(seed)
        model.eval()
        try:
            yield parameter
        finally:
            model.train(was_training)


def reseed(*key: int) -> None:
    """Start the random stream of a key, so that draws are the same in whatever portions they are made.

    Parameters
    ----------
    key
        Whole numbers, 0 or above; every key has a stream of its own.
    """
    words = (len(key), *key)  # SeedSequence pads with zeros: without the length, (0, 1) and (0, 1, 0) would be one key
    torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def portions(total: int, elements: int, most: int | None = None) -> Iterator[slice]:
    """Portions of a work so small that what is held at once stays within `ELEMENTS`.

    Parameters
    ----------
    total
        Number of cells, or of replicates.
    elements
        Number of values held for each of them, such as particles x genes.
    most
        Largest size of a portion. None: as memory allows.

    Returns
    -------
    Iterator
        Slices that cover all of them in order.
    """
    size = max(1, min(most or total, ELEMENTS // elements))
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def draw_shared(model: Model, particles: int, seed: int, active: Mapping[Plate, Tensor]) -> Iterator[tuple[int, Trace]]:
    """Draws of the shared latents from the posterior, block by block; each block has a random stream of its own.

    Parameters
    ----------
    model
        A trained model.
    particles
        Number of draws of all blocks together.
    seed
        Seed of the streams: that of a block has the key (seed, number of the block).
    active
        The rows of shared plates that are drawn; all of a plate that is not in it.

    Returns
    -------
    Iterator
        Number of the block, and the trace of its draws; all blocks but the last have `PARTICLES`.
    """
    for block, first in enumerate(range(0, particles, PARTICLES)):
        reseed(seed, block)
        shared = Trace(min(PARTICLES, particles - first), active=active)
        model.infer_shared(shared)
        yield block, shared


def encode(model: Model, cells: Batch, shared: Trace, own: Mapping[str, Tensor] | None = None) -> Trace:
    """The posterior's pass over cells, given draws of the shared latents.

    Parameters
    ----------
    model
        A trained model.
    cells
        The observed cells.
    shared
        Draws of the shared latents.
    own
        The cells' own latents by name, where they are drawn already. None draws all.

    Returns
    -------
    Trace
        With every latent of the cells.
    """
    q = Trace(shared.particles, given=shared.values | dict(own or {}), active=shared.active)
    model.infer_cells(q, cells)
    return q
