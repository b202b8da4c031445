"""Sparsity that needs no tuning: spike and slab tables, direct effects on genes, and the rotation of latent space."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from samslib.cells import DataSummary, Plate
from samslib.distributions import Bernoulli, Normal, Slab, StraightThroughBernoulli
from samslib.model import Model
from samslib.nets import CellEncoder, NormalTable, Trunk
from samslib.trace import Trace
from samslib.validation import require


def spike_slab(
    t: Trace,
    names: tuple[str, str],
    logits: Tensor,
    slab: Normal,
    scale: float,
    plate: Plate,
    groups: Tensor | None = None,
    temperature: float = 1.0,
) -> None:
    """Declare the posterior of a spike and slab: a mask, and effects that are those of the slab where it is 1.

    Parameters
    ----------
    t
        The pass.
    names
        Of the mask and of the effects.
    logits
        (rows, K) log-odds of q(mask = 1).
    slab
        q(effect | mask = 1), over (rows, K).
    scale
        Standard deviation of the prior of an effect.
    plate, groups
        Who shares a draw, as for `Trace.sample`.
    temperature
        Of the relaxed mask.
    """
    law = StraightThroughBernoulli(logits, temperature)
    mask = t.sample(names[0], law, plate, groups)
    prior = Normal(torch.zeros_like(slab.loc), torch.full_like(slab.loc, scale))
    t.sample(names[1], Slab(slab.loc, slab.scale, mask, law.mean, prior), plate, groups)


def numbers(names: Sequence[str]) -> Tensor:
    """(T,) number of each name, names being numbered as they first occur."""
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([order[name] for name in names])


DIRECT = ("M_direct", "O")  # mask and effect of a target on a gene itself


class SparseEffects(nn.Module):
    """Few effects beside those of perturbations on latent axes, with a spike and slab for posterior.

    Mask ~ Bernoulli(prior) and effect ~ N(0, scale^2) for each row and column. Of targets on genes they are the direct
    effects, which move a cell's logits (or means, of real values) by D (O * M_direct).

    Parameters
    ----------
    names
        Of the mask and of the effects.
    rows, columns
        Number of what acts, such as targets J, and of what is acted on, such as genes G.
    prior
        Prior probability of an effect.
    scale
        Standard deviation of the prior of an effect: on genes, natural logarithms of expression, for counts.
    """

    def __init__(self, names: tuple[str, str], rows: int, columns: int, prior: float, scale: float):
        super().__init__()
        self.names, self.prior, self.scale = names, prior, scale
        self.logits = nn.Parameter(torch.full((rows, columns), -1.0))
        self.slab = NormalTable(rows, columns, scale=0.3)

    def generate(self, t: Trace, rows: int, plate: Plate, groups: Tensor | None = None) -> Tensor:
        """(P, rows, columns): declare the prior of so many rows of the plate, and get mask * effect."""
        full = self.logits.new_ones(rows, self.logits.shape[1])
        mask = t.sample(self.names[0], Bernoulli(self.prior * full, validate_args=False), plate, groups)
        return mask * t.sample(self.names[1], Normal(0 * full, self.scale * full), plate, groups)

    def infer(self, t: Trace, of: Tensor | slice, plate: Plate, groups: Tensor | None = None) -> None:
        """Declare the posterior of the rows `of` of the tables."""
        spike_slab(t, self.names, self.logits[of], self.slab(of), self.scale, plate, groups)


class Interactions(nn.Module):
    """What a pair of perturbations does beyond the sum of both: a sparse shift D_a D_b (E_pair * M_pair) of its own.

    Every pair that some training cell has is a row, drawn in every pass, for they are few; a pair that none has adds
    nothing. A cell of three perturbations has the terms of the three pairs.

    Parameters
    ----------
    summary
        Names of the perturbations, and the pairs seen.
    latent
        Number of latent axes, K.
    prior
        Prior probability that a pair has a shift of its own along an axis.
    scale
        Standard deviation of the prior of such a shift, in standard deviations of z_basal.

    Raises
    ------
    ValueError
        For training cells without pairs.
    """

    def __init__(self, summary: DataSummary, latent: int, prior: float, scale: float):
        super().__init__()
        text = "No training cell has two perturbations" + ", as the data encode pairs" * summary.unique
        require(summary.pairs, f"{text}, so none interact; leave interactions=False.")
        self.pairs, self.size = nn.Buffer(torch.tensor(summary.pairs).T, persistent=False), len(summary.perturbations)
        self.effects = SparseEffects(("M_pair", "E_pair"), len(summary.pairs), latent, prior, scale)

    def generate(self, t: Trace) -> None:
        """Declare the prior of every pair."""
        self.effects.generate(t, self.pairs.shape[1], Plate.PAIR)

    def infer(self, t: Trace) -> None:
        """Declare the posterior of every pair."""
        self.effects.infer(t, slice(None), Plate.PAIR)

    def forward(self, t: Trace, dose: Tensor) -> Tensor:
        """(P, n, K) shift of cells in a pass, by their doses (n, rows) or (P, n, rows)."""
        first, second = t.widen(dose, self.size)[..., self.pairs].unbind(-2)
        return (first * second) @ (t["M_pair"] * t["E_pair"])


@torch.no_grad()
def turn_table(logits: Tensor, table: NormalTable, rotation: Tensor) -> None:
    """Turn a table of shifts S (rows, K) to S R, in place; `logits` are those of its masks, which start anew.

    A mask is then probably on (log-odds 2) where |S R| is above one half, else probably off.
    """
    S = (logits.sigmoid() * table.loc) @ rotation
    table.loc.copy_(S)
    table.log_scale.fill_(math.log(0.3))
    logits.copy_(torch.where(S.abs() > 0.5, 2.0, -2.0))


class Additive(Model):
    """Abstract: a model whose perturbations shift latent space, z = z_basal + D S, so that its axes can be turned.

    With an orthogonal R, z_basal R is as standard normal as z_basal, and a decoder whose first layer is turned along
    gives the same cells: the likelihood knows no axes, only a sparse prior of S does.
    """

    encoder: CellEncoder
    decoder: nn.Module

    @abstractmethod
    def shifts(self) -> Tensor:
        """(J, K) posterior mean of the shift S of each perturbation, or target, in standard deviations of z_basal."""

    @abstractmethod
    def turn_shifts(self, rotation: Tensor) -> None:
        """Make the posterior of S that of S R, as nearly as its form allows; its mean exactly."""

    @torch.no_grad()
    def rotate(self, rotation: Tensor | None = None, *, seed: int = 0) -> Tensor:
        """Turn latent space in place, by default to the axes in which the shifts are sparsest.

        Likelihood and posterior means stay what they are; the diagonal variances of the posterior cannot turn, and are
        averaged instead.

        Parameters
        ----------
        rotation
            (K, K) orthogonal R; None finds the sparsest one, `sparsest_rotation`.
        seed
            Of the restarts of that search.

        Returns
        -------
        (K, K) the rotation R: z became z R.

        Raises
        ------
        ValueError
            For a rotation that is not orthogonal or of another size, which would give other cells.
        """
        R = sparsest_rotation(self.shifts(), seed=seed) if rotation is None else rotation
        K = self.shifts().shape[1]
        valid = R.shape == (K, K) and torch.allclose(R @ R.mT, torch.eye(K).to(R), atol=1e-4)
        require(valid, f"The rotation has shape {tuple(R.shape)}; give an orthogonal matrix of {K} x {K}, or None.")
        self.turn_shifts(R)
        next(part for part in self.decoder.modules() if isinstance(part, Trunk)).rotate(0, R)
        self.encoder.net.rotate(R)
        if len(self.encoder.net.trunk.inputs) > 1:
            self.encoder.net.trunk.rotate(1, R)
        return R


def sparsest_rotation(shifts: Tensor, steps: int = 300, restarts: int = 6, *, seed: int = 0) -> Tensor:
    """The orthogonal R with the smallest sum of |S R|, smoothed less and less, by gradient descent.

    Parameters
    ----------
    shifts
        (J, K) shifts S.
    steps
        Steps of each descent.
    restarts
        Descents: the first from the axes as they are, the others from random ones; the best counts.
    seed
        Of the random starts.

    Returns
    -------
    (K, K) R, of the type of `shifts`.

    References
    ----------
    The criterion is that of sparse factor rotation, Jennrich (2004), Rotation to simple loadings using component loss
    functions: the orthogonal case.
    """
    S, K = shifts.detach().cpu().double(), shifts.shape[1]
    unit, draws = S.norm() / S.numel() ** 0.5, torch.Generator().manual_seed(seed)
    found = []
    for restart in range(restarts):
        start = torch.eye(K, dtype=S.dtype)
        if restart:
            start = torch.linalg.qr(torch.randn(K, K, generator=draws, dtype=S.dtype))[0]
        R = _descend(S, start, unit, steps)
        found.append(((S @ R).abs().sum().item(), restart, R))
    return min(found)[-1].to(shifts)


@torch.enable_grad()
def _descend(S: Tensor, start: Tensor, unit: Tensor, steps: int) -> Tensor:
    """The rotation of one descent, from `start`; values well below `unit` count as zero."""
    turn = torch.zeros_like(start, requires_grad=True)
    adam = torch.optim.Adam([turn], lr=0.02)
    for step in range(steps):
        R = start @ torch.matrix_exp(turn - turn.T)
        width = unit * (0.3 * (1 - step / steps) + 0.02)
        adam.zero_grad()
        (S @ R).square().add(width.square()).sqrt().sum().backward()
        adam.step()
    return (start @ torch.matrix_exp(turn - turn.T)).detach()
