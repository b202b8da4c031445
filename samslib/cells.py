"""What is set, what is seen, and who shares it: the vocabulary that every model and every bound uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Self

from torch import Tensor

from samslib.validation import require


class Plate(Enum):
    """Who shares one draw of a latent variable."""

    CELL = "cell"  # one draw a cell
    DOSE = "perturbation"  # one draw a perturbation, shared by all cells that received it
    PAIR = "pair"  # one draw a pair of perturbations, shared by all cells that received both
    TARGET = "target"  # one draw a target, shared by all its perturbations (guides), each of which has a row
    QC = "quality flag"  # one draw a quality flag, shared by all cells that carry it


@dataclass(frozen=True)
class _RowTensors:
    """Tensors (or nested such) with the cells on the axis before the last; indexing and moving acts on all of them."""

    def _map(self, change: Callable) -> Self:
        return replace(self, **{name: change(value) for name, value in vars(self).items() if value is not None})

    def __getitem__(self, rows) -> Self:
        return self._map(lambda value: value[rows] if isinstance(value, _RowTensors) else value[..., rows, :])

    def to(self, *where) -> Self:
        """Move or convert every tensor as `torch.Tensor.to` does."""
        return self._map(lambda value: value.to(*where))


@dataclass(frozen=True)
class Condition(_RowTensors):
    """What the experimenter set or what is known of each cell before its genes are read.

    Cells are on the axis before the last, of every tensor. Where each particle has cells of its own, as in an average
    effect, library is (P, n, 1) and covariate (P, n, C).

    Parameters
    ----------
    dose
        (n, T) amounts of each perturbation, all zero for a control.
    library
        (n, 1) total counts over the genes of the model.
    covariate
        (n, C) one-hot columns.
    qc
        (n, Q) 0/1 quality flags; 1 is a cell that fails.

    Raises
    ------
    ValueError
        For tensors that differ in n.
    """

    dose: Tensor
    library: Tensor
    covariate: Tensor
    qc: Tensor

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            text = f"{name} has shape {tuple(value.shape)}, but dose is of {len(self)} cells"
            fits = value.dim() >= 2 and value.shape[-2] == len(self)
            require(fits, f"{text}; put the cells on the axis before the last.")

    def __len__(self) -> int:
        return len(self.dose)

    def touched(self, plate: Plate) -> Tensor:
        """(n, rows) 0/1: which rows of a shared plate act on each cell. Raises ValueError for the cell plate, and for
        that of pairs, which a model lists (`samslib.objective.plate_weights`)."""
        text = f"Plate.{plate.name} has no rows here; only DOSE, TARGET and QC are touched by cells."
        require(plate not in (Plate.CELL, Plate.PAIR), text)
        return ((self.qc if plate is Plate.QC else self.dose) != 0).to(self.library.dtype)

    def do(self, **changes: Tensor) -> Condition:
        """The same cells under an intervention.

        Parameters
        ----------
        **changes
            New tensors by name; one with a single row is meant for all cells.

        Raises
        ------
        ValueError
            For a name that a condition does not have.
        """
        unknown = sorted(set(changes) - set(vars(self)))
        require(not unknown, f"Condition has no {unknown}; what can be set is {sorted(vars(self))}.")
        wide = {name: v.expand(*v.shape[:-2], len(self), -1) for name, v in changes.items() if v.shape[-2] == 1}
        return replace(self, **changes | wide)


@dataclass(frozen=True)
class Batch(_RowTensors):
    """Cells as a model sees them.

    Parameters
    ----------
    x
        (n, G) expression.
    condition
        What was set or is known of the same cells.
    twin
        (n, G) expression of a similar cell of the other quality class, zero where there is none; None if no model
        asks for it.
    """

    x: Tensor
    condition: Condition
    twin: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Pseudobulk:
    """Training cells summed by condition, one row a name: what closed-form baselines are functions of.

    Parameters
    ----------
    counts
        (S, G) summed over the cells of each of S conditions.
    dose
        (S, T) their mean.
    cells
        (S,) their number.
    concentration
        (G,) of a negative binomial around each condition's share of counts, by moments.
    """

    counts: Tensor
    dose: Tensor
    cells: Tensor
    concentration: Tensor


@dataclass(frozen=True)
class DataSummary:
    """All that a model must know of the data before it sees a batch.

    Parameters
    ----------
    genes, perturbations, covariates, quality
        Names, which fix the sizes G, T, C and Q.
    n_cells
        Number of training cells.
    n_treated, n_flagged
        n_t: the number of training cells with a non-zero dose of each perturbation, or with each flag.
    mean, std
        (G,) of x over the training cells; the sample standard deviation, 1 where a gene is constant.
    log_mean, log_std
        The same of log(1 + x).
    control
        Name of the control; None if the data have none.
    pseudobulk
        Sums by condition; None unless they were asked for.
    counts
        x are counts, not real values.
    unique
        Each combination is a perturbation of its own (`PerturbationData.encode_unique`).
    targets
        (T,) the target (gene) of each perturbation, where perturbations are guides of targets; else empty.
    pairs
        Numbers (a, b), a < b, of the perturbations that some training cell has both of; three make three pairs.
    largest_dose
        (T,) largest dose of each perturbation in the training cells, 0 for one that they lack; empty if not known.
    """

    genes: tuple[str, ...]
    perturbations: tuple[str, ...]
    covariates: tuple[str, ...]
    quality: tuple[str, ...]
    n_cells: int
    n_treated: tuple[int, ...]
    n_flagged: tuple[int, ...]
    mean: Tensor
    std: Tensor
    log_mean: Tensor
    log_std: Tensor
    control: str | None = None
    pseudobulk: Pseudobulk | None = None
    counts: bool = True
    unique: bool = False
    targets: tuple[str, ...] = ()
    largest_dose: tuple[float, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of what has effects of its own: the targets, where perturbations have some, else the perturbations."""
        return tuple(dict.fromkeys(self.targets or self.perturbations))
