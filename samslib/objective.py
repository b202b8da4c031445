"""The bounds. The weight 1/n_t of shared latents lives in `log_weights` and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from samslib.cells import Batch, Plate
from samslib.model import Model
from samslib.trace import Site, Trace


def present(b: Batch) -> tuple[Batch, dict[Plate, Tensor]]:
    """The batch with only the perturbations that occur in it as dose columns, and which those are."""
    rows = b.condition.dose.any(0).nonzero().squeeze(1)
    condition = replace(b.condition, dose=b.condition.dose[:, rows])
    return replace(b, condition=condition), {Plate.DOSE: rows, Plate.TARGET: rows}


def posterior(model: Model, b: Batch, particles: int, active: Mapping[Plate, Tensor] | None = None) -> Trace:
    """One pass of the posterior program over a batch: a trace with every latent variable drawn.

    Parameters
    ----------
    model, b
        The model and a batch of n cells.
    particles
        Number of draws, P.
    active
        The rows of shared plates that are drawn, as `present` gives them; None draws all.
    """
    t = Trace(particles, active=active or {})
    model.infer_shared(t)
    model.infer_cells(t, b)
    return t


def log_weights(
    model: Model, b: Batch, q: Trace, counts: Mapping[Plate, Tensor] | None = None, analytic: bool = False
) -> dict[str, Tensor]:
    """Every term of log p(x, latents) - log q(latents), by name, each (P, n) in nats.

    "x" is the likelihood summed over genes. A cell latent gives log p - log q summed over its axes. That of a shared
    latent's row t is added to every cell that the row touches, with weight 1/n_t, so that an epoch counts it once; a
    row with n_t = 0 is never counted.

    Parameters
    ----------
    model, b
        The model and a batch of n cells.
    q
        A pass of the posterior over the batch.
    counts
        n_t of each shared plate, all rows of it. None gives the held-out bound, in which shared latents are taken as
        given and have no term.
    analytic
        Replace the sampled log p - log q by its mean over q, -KL(q || p), wherever that is known in closed form: the
        same ELBO in expectation, with less noise. An IWELBO needs the sampled ratios.

    References
    ----------
    Bereket & Karaletsos 2023 (arXiv:2311.02794), section 4.
    """
    p = Trace(q.particles, given=q.values, active=q.active)
    terms = {"x": model.generate(p, b.condition).cell_log_prob(b.x)}
    for name, site in q.sites.items():
        if site.plate is Plate.CELL:
            terms[name] = _ratio(p.sites[name], site, analytic)
        elif counts is not None:
            n_t, touched = counts[site.plate][q.rows(site.plate)], None
            if site.plate is Plate.PAIR:
                on = q.widen(b.condition.touched(Plate.DOSE), len(model.summary.perturbations))
                touched = on[:, torch.tensor(model.summary.pairs, device=on.device)].prod(-1)
            weights = plate_weights(b, site.plate, n_t, touched)
            terms[name] = _ratio(p.sites[name], site, analytic) @ weights.T
    return terms


def _ratio(p: Site, q: Site, analytic: bool) -> Tensor:
    """(P, rows): log p - log q summed over axes, or minus its Kullback-Leibler divergence."""
    if analytic:
        with suppress(NotImplementedError):  # of laws without a closed form
            return -kl_divergence(q.distribution, p.distribution).expand(q.value.shape).sum(-1)
    return (p.log_prob - q.log_prob).sum(-1)


def plate_weights(b: Batch, plate: Plate, counts: Tensor, touched: Tensor | None = None) -> Tensor:
    """(n, rows): 1/n_t where row t touches the cell, else 0.

    Parameters
    ----------
    b
        A batch of n cells.
    plate
        A shared plate.
    counts
        (rows,) n_t, the number of training cells that each row touches.
    touched
        (n, rows) 0/1, which rows act on each cell. None: as the condition says, which knows no pairs.
    """
    touched = b.condition.touched(plate) if touched is None else touched
    return touched * torch.where(counts > 0, 1 / counts.clamp(min=1), 0).to(touched)


def elbo(terms: Mapping[str, Tensor]) -> Tensor:
    """(n,) evidence lower bound in nats: the mean over particles of the summed terms of `log_weights`."""
    return torch.stack(list(terms.values())).sum(0).mean(0)


def iwelbo(terms: Mapping[str, Tensor]) -> Tensor:
    """(n,) importance-weighted bound in nats (Burda et al. 2016): log of the mean over particles of exp(sum)."""
    total = torch.stack(list(terms.values())).sum(0)
    return total.logsumexp(0) - math.log(len(total))
