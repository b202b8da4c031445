"""Random streams and portions of work, so that no number depends on memory or order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from samslib.cells import Batch
from samslib.data.container import PerturbationData
from samslib.model import Model

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
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
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


def cell_blocks(cells: PerturbationData | Batch, particles: int) -> Iterator[slice]:
    """Slices of cells so small that (particles, cells, genes) stays within `ELEMENTS`.

    Parameters
    ----------
    cells
        Cells, n of them.
    particles
        Number of draws held for each cell.

    Returns
    -------
    Iterator
        Slices that cover all cells in order.
    """
    size = max(1, ELEMENTS // (particles * cells.x.shape[1]))
    for start in range(0, len(cells), size):
        yield slice(start, min(start + size, len(cells)))
