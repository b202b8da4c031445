"""Means over particles without most of their simulation noise: control variates, cross-fitted."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from samslib.distributions import Likelihood
from samslib.evaluate.tables import READOUTS

FOLDS = 2  # of particles; with five, 3 to 7% less variance would be left, for more than twice the memory
RIDGE = 0.3  # a count of a rare gene adds about 1 to a sum of squares: one that was never seen gets coefficients near 0
FEWEST = 50  # particles; of fewer, coefficients may add more noise than they explain, and are 0


class Drawn(NamedTuple):
    """Simulated cells.

    Parameters
    ----------
    law
        Their law given their latents, over (P, n, G).
    x
        (P, n, G) drawn from it.
    """

    law: Likelihood
    x: Tensor


def seen(cells: Drawn, read: Callable[[Tensor], Tensor], adjust: bool) -> list[Tensor]:
    """What is seen of simulated cells: their readout, a value of the same mean, and its controls.

    Given its latents and its library, the mean m of a count x and the probability of x = 0 are known, and with X the
    sum of x over genes and L that of m, x - m X / L and 1{x = 0} - P(x = 0) have mean 0 whatever the latents. They go
    with the readout, a logarithm of x / X; one count more moves it less where there are many, so the first is divided
    by 1 + m. Of the readout "mean" nothing is left to be explained, for m itself takes the place of x.

    Parameters
    ----------
    cells
        The cells.
    read
        The readout.
    adjust
        Whether there is to be less noise. False: the value is the readout, without controls.

    Returns
    -------
    list
        The readout, the value and its controls, each (P, n, G).
    """
    x, m = cells.x, cells.law.mean
    g = read(x)
    if not adjust or read is READOUTS["mean"]:
        return [g, m if adjust else g]
    share = m / m.sum(-1, keepdim=True).clamp(min=1e-30)
    zero = cells.law.log_prob(m.new_zeros(())).exp().nan_to_num(1.0)  # where m is 0, so is x
    return [g, g, (x - share * x.sum(-1, keepdim=True)) / (1 + m), (x == 0).to(m) - zero]


class Adjusted:
    """Mean and variance over particles of a value less what its controls explain.

    A control has mean 0, so that beta times it, taken from the value, changes no mean, whatever beta is, if it was not
    fitted to the same particles: in each fold of particles beta is that of a regression over the others, and the mean
    is unbiased. The variance is that of what is left, noise of beta included, so that standard errors are honest.

    References
    ----------
    Glynn and Szechtman (2002), Some new perspectives on the method of control variates; Chernozhukov et al. (2018),
    Double/debiased machine learning for treatment and structural parameters (cross-fitting).
    """

    def __init__(self) -> None:
        self.particles, self.products = 0, torch.zeros(())

    def add(self, value: Tensor, *controls: Tensor) -> None:
        """Add particles.

        Parameters
        ----------
        value
            (P, ...) of so many particles.
        controls
            Of the same shape, or one that broadcasts to it; as many of them in every call.
        """
        pairs = list(combinations_with_replacement([torch.ones_like(value), value, *controls], 2))
        step = FOLDS if controls else 1
        folds = [[(a[fold::step] * b[fold::step]).sum(0) for a, b in pairs] for fold in range(step)]
        found = torch.stack([torch.stack(torch.broadcast_tensors(*fold)) for fold in folds])
        self.particles, self.products = self.particles + len(value), self.products + found.double().cpu()

    def _sums(self) -> Tensor:
        """(folds, 2 + controls, 2 + controls, ...) sums of products, two by two, of 1, the value and the controls."""
        size = math.isqrt(2 * self.products.shape[1])
        at = torch.zeros(size, size, dtype=torch.long)
        at[tuple(torch.triu_indices(size, size))] = torch.arange(self.products.shape[1])
        return self.products[:, at.maximum(at.T)]

    def coefficients(self) -> Tensor:
        """(folds, controls, ...) beta of each fold, 0 for few particles."""
        sums = self._sums()
        others = sums.sum(0) - sums
        if len(others) == 1 or self.particles < FEWEST:
            return torch.zeros_like(others[:, 2:, 0])
        centred = others[:, 1:, 1:] - others[:, 1:, :1] * others[:, :1, 1:] / others[:, :1, :1]
        shared = centred[:, 1:].movedim((1, 2), (-2, -1))
        square = shared[..., 1:] + RIDGE * torch.eye(shared.shape[-2], dtype=shared.dtype)
        return torch.linalg.solve(square, shared[..., 0]).movedim(-1, 1)

    def moments(self, beta: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and sample variance.

        Parameters
        ----------
        beta
            Coefficients of another one with the same folds. None: its own.

        Returns
        -------
        tuple
            Two tensors (...), the value's shape without the particles.
        """
        beta, sums = self.coefficients() if beta is None else beta, self._sums()
        w = torch.cat([torch.ones_like(sums[:, :1, 0]), -beta], 1)
        mean = (w * sums[:, 0, 1:]).sum((0, 1)) / self.particles
        square = torch.einsum("ki...,kj...,kij...->...", w, w, sums[:, 1:, 1:]) / self.particles
        return mean, (square - mean.square()).clamp(min=0) * self.particles / (self.particles - 1)
