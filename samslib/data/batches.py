"""Which cells make each training batch, from memory or from disk."""

from __future__ import annotations

import numpy as np
import torch

from samslib.cells import Batch
from samslib.data.container import PerturbationData
from samslib.data.disk import OnDisk

STRETCH = 16  # consecutive rows of data on disk that enter a window of the order together


class Order:
    """Step -> rows of its batch: each epoch is a permutation drawn from (seed, epoch) alone.

    With a window below n, an epoch's permutation is drawn in two stages, so that `window` rows, rounded down to whole
    batches, can be held in memory at a time: first that of all stretches of `STRETCH` consecutive rows, their borders
    drawn too; then, within each window of it, that of its rows.

    Parameters
    ----------
    n, batch_size
        Numbers of cells, and of cells in a batch.
    seed
        Of all permutations.
    window
        Cells held at a time; None for all.
    """

    def __init__(self, n: int, batch_size: int, seed: int, window: int | None = None):
        self.n, self.size, self.seed, self.epoch = n, batch_size, seed, -1
        self.window = n if window is None or window >= n else max(1, window // batch_size) * batch_size

    def __call__(self, step: int) -> np.ndarray:
        return self._stretch(step, self.size)

    def around(self, step: int) -> np.ndarray:
        """The rows of the step's window, which change when a window or, if there are several, an epoch begins."""
        return self._stretch(step, self.window)

    def _stretch(self, step: int, length: int) -> np.ndarray:
        """So many rows of the step's epoch, among them the first of its batch."""
        epoch, batch = divmod(step, -(-self.n // self.size))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(step_seed(self.seed, 2**41 + epoch))
            self.permutation, self.epoch = self._permuted(generator).numpy(), epoch
        start = batch * self.size // length * length
        return self.permutation[start : start + length]

    def _permuted(self, generator: torch.Generator) -> torch.Tensor:
        if self.window >= self.n:
            return torch.randperm(self.n, generator=generator)
        shift = int(torch.randint(STRETCH, (1,), generator=generator))
        stretches = torch.randperm((self.n + shift - 1) // STRETCH + 1, generator=generator)
        rows = (stretches[:, None] * STRETCH - shift + torch.arange(STRETCH)).flatten()
        windows = rows[(rows >= 0) & (rows < self.n)].split(self.window)
        return torch.cat([rows[torch.randperm(len(rows), generator=generator)] for rows in windows])


class Batches:
    """Step -> batch. Of data on disk, one window of the order is in memory at a time.

    Parameters
    ----------
    data
        Cells to train on.
    batch_size, seed
        As in `Order`.
    """

    def __init__(self, data: PerturbationData, batch_size: int, seed: int):
        self.data, self.on_disk = data, isinstance(data.x, OnDisk)
        self.order = Order(len(data), batch_size, seed, data.x.window() if self.on_disk else None)
        self.held, self.rows = data[:0], np.zeros(0, dtype=int)  # what is in memory, and the sorted rows of it

    def __call__(self, step: int, dtype: torch.dtype) -> Batch:
        rows = self.order(step)
        if not self.on_disk:
            return self.data.batch(rows, dtype)
        if not np.isin(rows, self.rows, assume_unique=True).all():
            self.held, self.rows = self.data, np.sort(self.order.around(step))  # let go before reading
            self.held = self.data[self.rows].to_memory()
        return self.held.batch(np.searchsorted(self.rows, rows), dtype)


def step_seed(seed: int, index: int) -> int:
    """A seed of its own for the step or epoch `index` of a run of `seed`."""
    return (seed * 6_364_136_223_846_793_005 + index * 1_442_695_040_888_963_407 + 1) % 2**63
