"""An explicit record of a probabilistic program: every latent variable, its law, who shares it, and its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

from samslib.cells import Plate
from samslib.validation import require


@dataclass(frozen=True)
class Site:
    """One latent variable in one pass.

    Parameters
    ----------
    name
        Its name.
    distribution
        Its law, over (rows, K) or (P, rows, K).
    plate
        Who shares one draw.
    value
        (P, rows, K), drawn or given.
    """

    name: str
    distribution: Distribution
    plate: Plate
    value: Tensor

    @property
    def log_prob(self) -> Tensor:
        """(P, rows, K) nats, elementwise."""
        return self.distribution.log_prob(self.value).expand(self.value.shape)


@dataclass(eq=False)
class Trace:
    """Runs a model's program with P particles, drawing each latent variable or taking it as given.

    Parameters
    ----------
    particles
        Number of draws of every latent variable, P, 1 or more.
    given
        Values taken as they are, name -> (P, rows, K).
    replay
        Draws reproduced with their gradients (see `samslib.distributions`), so that another implementation's pass can
        be repeated exactly.
    active
        For a shared plate, the rows that are drawn; None draws all. A training step draws only the perturbations that
        occur in its batch, for those absent add nothing to the bound.

    Raises
    ------
    ValueError
        For no particles.
    """

    particles: int
    given: Mapping[str, Tensor] = field(default_factory=dict)
    replay: Mapping[str, Tensor] = field(default_factory=dict)
    active: Mapping[Plate, Tensor] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        require(self.particles >= 1, f"particles is {self.particles}; at least one draw is needed.")

    def rows(self, plate: Plate) -> Tensor | slice:
        """Index of the rows of a shared plate that this pass draws; all of them unless said otherwise."""
        return self.active.get(plate, slice(None))

    def widen(self, of_rows: Tensor, perturbations: int) -> Tensor:
        """(..., rows) -> (..., T), with zeros for the perturbations that this pass leaves out.

        Parameters
        ----------
        of_rows
            A column for each row of the plate of perturbations that this pass draws.
        perturbations
            The number of all perturbations, T.
        """
        wide = of_rows.new_zeros(*of_rows.shape[:-1], perturbations)
        wide[..., self.rows(Plate.DOSE)] = of_rows
        return wide

    def sample(self, name: str, distribution: Distribution, plate: Plate, groups: Tensor | None = None) -> Tensor:
        """Declare a latent variable and get its value (P, rows, K): given, replayed, or drawn.

        Parameters
        ----------
        name
            Its name, the same in prior and posterior.
        distribution
            Its law, over (rows, K) or (P, rows, K).
        plate
            Who shares one draw.
        groups
            (rows,) numbers of a plate whose rows are not all drawn apart: rows of one number have one law and get one
            draw. None: every row has its own.

        Raises
        ------
        ValueError
            For a name that this pass has declared already.
        """
        require(name not in self.sites, f"'{name}' is sampled twice in one pass; declare each latent variable once.")
        if name in self.given:
            value = self.given[name]
        elif name in self.replay:
            value = distribution.attach(self.replay[name])  # type: ignore[attr-defined]
        else:
            shape = torch.Size(() if len(distribution.batch_shape) == 3 else (self.particles,))
            value = distribution.rsample(shape) if distribution.has_rsample else distribution.sample(shape)
            if groups is not None and len(groups):  # none are drawn for a batch of controls
                value = value[..., (groups == groups[:, None]).int().argmax(1), :]
        self.sites[name] = Site(name, distribution, plate, value)
        return value

    def __getitem__(self, name: str) -> Tensor:
        return self.sites[name].value if name in self.sites else self.given[name]

    @property
    def values(self) -> dict[str, Tensor]:
        """name -> (P, rows, K), of what was given and what was drawn."""
        return {**self.given, **{name: site.value for name, site in self.sites.items()}}
