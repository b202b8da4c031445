"""The contract of a model: two short programs over a trace, and nothing else."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from samslib.cells import Batch, Condition, DataSummary
from samslib.cells import Plate as Plate  # a model imports all that its programs speak of from here
from samslib.distributions import Likelihood
from samslib.trace import Trace
from samslib.validation import require, whole

# Every subclass of Model by module and name; of a notebook's cell that ran twice, the newest.
DEFINED: dict[tuple[str, str], type[Model]] = {}

LACKING = {  # what a model may need -> what to say where the data lack it
    "quality": "needs a quality flag, and the data have none; samslib.quality.label and from_anndata(quality=) add it",
    "pseudobulk": "is a function of pseudobulk; give it data.summary(train, pseudobulk=True)",
}


def seeded(constructor: Callable[..., None]) -> Callable[..., None]:
    """A model's constructor whose `seed`, if one is given, draws the initial weights. The global random stream, which
    draws them otherwise, is then left as it was."""

    @wraps(constructor)
    def build(self: Model, *arguments: Any, seed: int | None = None, **options: Any) -> None:
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(whole("seed", seed, 0))
            constructor(self, *arguments, seed=seed, **options)

    return build


class Model(nn.Module, ABC):
    """A generative program and its posterior; bounds, effects and training are generic and live elsewhere.

    A subclass is final, is one file, and begins its constructor with `super().__init__(summary, locals())`, which
    records the options so that the model can be saved by name, options and weights. A constructor that draws initial
    weights takes `seed` as its last argument, by keyword only, and is then `seeded`. Class attributes say what a model
    takes, and nothing else asks which class it is.

    Parameters
    ----------
    summary
        Names and statistics of the training cells.
    arguments
        The constructor's `locals()`, of which its options are kept as `options`.

    Attributes
    ----------
    exogenous
        The cell latents that no intervention moves; they may be held fixed between the arms of a comparison.
    takes_combinations
        Whether a cell may have several perturbations; if not, `generate` calls `refuse_combinations`.
    uses
        What it reads of the data beside counts and doses, of "covariates", "quality" (flags) and "twins". Columns that
        it does not read are a warning when it is made, not an error, so that one data set serves all models.
    needs
        What it cannot be made without, of "quality" and "pseudobulk" (`data.summary(train, pseudobulk=True)`).
    source
        Where its equations are from.
    published
        The options of the publication, where the defaults differ; `paper` makes the model with them.
    settles
        Share of the training that lies behind when a model that is trained in stages settles; 0 for others.

    Raises
    ------
    ValueError
        For a summary without what it needs.
    """

    exogenous: ClassVar[tuple[str, ...]] = ()
    takes_combinations: ClassVar[bool] = True
    uses: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    published: ClassVar[Mapping[str, Any]] = {}
    settles: float = 0.0

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        DEFINED[cls.__module__, cls.__name__] = cls
        seed = inspect.signature(cls.__init__).parameters.get("seed")
        if seed is not None and seed.kind is seed.KEYWORD_ONLY:
            cls.__init__ = seeded(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, summary: DataSummary, arguments: dict[str, Any]):
        super().__init__()
        self.summary = summary
        self.options = self.accepted(arguments)
        name = type(self).__name__
        for size in self.options.keys() & {"latent", "encoder_width", "decoder_width"}:
            require(not isinstance(self.options[size], float), f"{size} is {self.options[size]}; give a whole number.")
            whole(size, self.options[size], 1)
        for what in self.needs:
            require(getattr(summary, what), f"{name} {LACKING[what]}.")
        for what in ("covariates", "quality"):
            if (columns := getattr(summary, what)) and what not in self.uses:
                reads = " and ".join(self.uses) or "neither covariates nor flags"
                warnings.warn(f"{name} ignores the {what} {', '.join(columns)}; it reads {reads}.", stacklevel=3)

    @classmethod
    def accepted(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that this class's constructor takes."""
        known = set(inspect.signature(cls).parameters) - {"summary"}
        return {name: value for name, value in options.items() if name in known}

    def refuse_combinations(self, c: Condition) -> None:
        """Raises ValueError for cells with several perturbations."""
        several = int(((c.dose != 0).sum(1) > 1).sum())
        text = f"{type(self).__name__} takes one perturbation a cell, and {several} of these {len(c)} cells have more"
        require(not several, f"{text}; make each combination a perturbation of its own with data.encode_unique().")

    @abstractmethod
    def generate(self, t: Trace, c: Condition) -> Likelihood:
        """The prior and the likelihood.

        Parameters
        ----------
        t
            The pass, on which every latent variable is declared with `t.sample`.
        c
            The conditions of n cells; its dose may hold only the columns `t.rows(Plate.DOSE)`.

        Returns
        -------
        The law of x, over (P, n, G).
        """

    @abstractmethod
    def infer_shared(self, t: Trace) -> None:
        """The posterior of what cells share (plates DOSE and QC), declared on `t`."""

    @abstractmethod
    def infer_cells(self, t: Trace, b: Batch) -> None:
        """The posterior of each cell's own latents, declared on `t`, which already holds the shared ones."""

    @classmethod
    def paper(cls, summary: DataSummary, **options: Any) -> Self:
        """The model with the settings of its publication.

        Parameters
        ----------
        summary
            Names and statistics of the training cells.
        **options
            Options that differ from the published ones.
        """
        return cls(summary, **{**cls.published, **options})

    @property
    def settled(self) -> bool:
        """Whether the weights of now may count as the best; True unless a model is trained in stages."""
        return True

    def advance(self, progress: float) -> bool:
        """Called before each training step with the share of all steps that lie behind. A model that is trained in
        stages changes itself here, and returns True where it did: optimisers then start anew."""
        return False

    def likelihood_weights(self, b: Batch) -> Tensor | float:
        """Factors of the likelihood terms of a batch's cells in training, (n,) or one for all; 1 unless overridden."""
        return 1.0

    def penalty(self, b: Batch, q: Trace) -> dict[str, Tensor]:
        """Scalars by name, in nats a cell, that are added to the loss in training; none unless a model has some.

        `q` is the pass over `b` that the bound is of, and `b.condition.dose` may hold only the columns
        `q.rows(Plate.DOSE)`.
        """
        return {}


class Adversarial(Model):
    """Abstract: a model with a critic, a part that tries to read from the latents what they should not tell.

    `fit` gives `critic` an optimiser of its own, which lowers `critic_loss`; the rest of the model is trained on the
    bound and on `penalty`, which then says what it loses if the critic reads well.
    """

    critic: nn.Module

    @abstractmethod
    def critic_loss(self, b: Batch, q: Trace) -> Tensor:
        """The loss of the critic alone, a scalar in nats a cell; no gradient flows to the latents of `q`.

        `b` and `q` are as for `penalty`.
        """
