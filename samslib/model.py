"""The contract of a model: two short programs over a trace, and nothing else."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from samslib.cells import Batch, Condition, DataSummary
from samslib.distributions import Likelihood
from samslib.trace import Trace

DEFINED: dict[
    tuple[str, str], type[Model]
] = {}  # every subclass by (module, name); of a cell that ran twice, the newest


class Model(nn.Module, ABC):
    """A generative program and its posterior; bounds, effects and training are generic and live elsewhere.

    A subclass is final, is one file, and begins its constructor with `super().__init__(summary, locals())`, which
    records the options so that the model can be saved by name, options and weights. `exogenous` names the cell
    latents that no intervention moves: they may be held fixed between the arms of a comparison. `uses` names what the
    model reads of the cells beside genes and doses: "covariates", "quality", both or (by default) neither. Columns that
    it does not read are a warning when it is made, not an error, so that one data set serves all models of a table.
    """

    exogenous: ClassVar[tuple[str, ...]] = ()
    uses: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        DEFINED[cls.__module__, cls.__name__] = cls

    def __init__(self, summary: DataSummary, arguments: dict[str, Any]):
        super().__init__()
        self.summary = summary
        names = [n for n in inspect.signature(type(self)).parameters if n != "summary"]
        self.options: dict[str, Any] = {name: arguments[name] for name in names}
        for what in ("covariates", "quality"):
            if (columns := getattr(summary, what)) and what not in self.uses:
                readers = " and ".join(sorted(kind.__name__ for kind in _kinds(Model) if what in kind.uses))
                text = f"{type(self).__name__} ignores the {what} {', '.join(columns)}, which {readers} would read."
                warnings.warn(text, stacklevel=3)

    @abstractmethod
    def generate(self, t: Trace, c: Condition) -> Likelihood:
        """The prior and the likelihood: declares every latent variable on `t`, returns the law of x over (P, n, G)."""

    @abstractmethod
    def infer_shared(self, t: Trace) -> None:
        """The posterior of what cells share (plates DOSE and QC), declared on `t`."""

    @abstractmethod
    def infer_cells(self, t: Trace, b: Batch) -> None:
        """The posterior of each cell's own latents, declared on `t`, which already holds the shared ones."""


def _kinds(kind: type[Any]) -> Iterator[type[Any]]:
    """All classes below this one."""
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


class Auxiliary(ABC):
    """Beside `Model` in the bases of a model whose training adds to the bound; evaluation never sees any of it."""

    @abstractmethod
    def weigh(self, b: Batch) -> Tensor:
        """(n,) factors of the cells' likelihood terms, of mean 1 in a batch unless a source has them otherwise."""

    @abstractmethod
    def penalty(self, b: Batch, q: Trace) -> dict[str, Tensor]:
        """Scalars by name, in nats a cell, that `fit` subtracts from the bound; q is the pass that it scored."""


class Adversarial(Model):
    """A model with a `critic`, a part that tries to read from the latents what they should not tell.

    `fit` gives the critic an optimiser of its own; the rest of the model is trained on the bound and `penalty`.
    """

    critic: nn.Module

    @abstractmethod
    def penalty(self, b: Batch, q: Trace) -> dict[str, Tensor]:
        """name -> scalar, nats a cell, added to the loss of everything but the critic. `b.condition.dose` may hold
        only the columns `q.rows(Plate.DOSE)`."""

    @abstractmethod
    def critic_loss(self, b: Batch, q: Trace) -> Tensor:
        """Scalar that the critic alone lowers; no gradient flows to the latents of `q`."""
