"""Interventions on a trained model: samples, average treatment effects, counterfactuals, latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import anndata
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from samslib.cells import Condition, Plate
from samslib.data import PerturbationData
from samslib.model import Model
from samslib.trace import Trace

ELEMENTS = 2**24  # largest number of (particle, cell, gene) values held at once


@contextmanager
def evaluating(model: Model, seed: int) -> Iterator[torch.nn.Parameter]:
    """No gradients, evaluation mode, a seeded random stream, put back afterwards; gives a parameter, for its type."""
    parameter, was_training = next(model.parameters()), model.training
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model.eval()
        try:
            yield parameter
        finally:
            model.train(was_training)


def perturbseq(x: Tensor) -> Tensor:
    """(..., G) counts -> log2(1 + 10,000 x / sum of x), the published readout; a cell without counts reads as zero."""
    return (1e4 * x / x.sum(-1, keepdim=True).clamp(min=1)).log1p() / np.log(2)


READOUTS = {"perturbseq": perturbseq, "mean": lambda x: x}


def average_effects(
    model: Model,
    data: PerturbationData,
    perturbations: Sequence[str] | None = None,
    particles: int = 2500,
    readout: str = "perturbseq",
    hold: bool = True,
    library: str | float = "data",
    seed: int = 0,
) -> anndata.AnnData:
    """Average treatment effect of each perturbation against control, by simulation from the trained model.

    ATE_t = E[g(x) | do(t)] - E[g(x) | do(control)] (paper, section 5), with g the readout. Every particle is one draw
    of the shared latents from the posterior and of the exogenous cell latents from the prior. `hold` uses the same
    exogenous draw in both arms, which is the causal reading and has less variance; without it, or in a model with no
    exogenous latents, each arm draws its own, as published.
    `library` is a number, or "data": sizes of the control cells (equally likely quantiles of them).

    Returns AnnData, perturbations x genes: X the effect, layers["standard_error"] its Monte Carlo error, uns["samslib"]
    the settings. Raises ValueError for an unknown perturbation or readout.
    """
    if readout not in READOUTS:
        raise ValueError(f"readout is {readout!r}; choose one of {sorted(READOUTS)}.")
    names = (
        list(perturbations) if perturbations is not None else [c for c in data.conditions().index if c != data.control]
    )
    read = READOUTS[readout]
    with evaluating(model, seed) as like:
        dose = torch.cat([torch.zeros(1, len(data.perturbations)), *(data.dose_of(name) for name in names)]).to(like)
        active = dose.any(0).nonzero().squeeze(1)
        dose = dose[:, active]
        size = max(1, min(particles, 64, ELEMENTS // (len(dose) * len(data.genes))))
        starts = range(0, particles, size)
        sizes = _library_sizes(data, library, len(starts))
        first = torch.zeros(len(names), len(data.genes), dtype=torch.float64, device=like.device)
        second = torch.zeros_like(first)
        for start, depth in zip(starts, sizes, strict=True):
            P = min(size, particles - start)
            shared = Trace(P, active={Plate.DOSE: active})
            model.infer_shared(shared)
            given = shared.values
            c = _condition(dose, depth, data)
            if hold and model.exogenous:
                prior = Trace(P, given=given, active=shared.active)
                model.generate(prior, c[:1])
                given |= {n: prior[n].expand(-1, len(dose), -1) for n in model.exogenous}
            arms = read(model.generate(Trace(P, given=given, active=shared.active), c).sample())
            effect = (arms[:, 1:] - arms[:, :1]).double()
            first += effect.sum(0)
            second += effect.square().sum(0)
    mean = first / particles
    error = ((second / particles - mean.square()).clamp(min=0) / max(particles - 1, 1)).sqrt()
    settings = {"particles": particles, "readout": readout, "hold": hold, "library": str(library), "seed": seed}
    return anndata.AnnData(
        mean.cpu().numpy(),
        obs=pd.DataFrame(index=pd.Index(names, name="perturbation")),
        var=pd.DataFrame(index=pd.Index(data.genes, name="gene")),
        layers={"standard_error": error.cpu().numpy()},
        uns={"samslib": settings},
    )


def counterfactual(
    model: Model,
    data: PerturbationData,
    perturbation: str | Mapping[str, float] | None,
    particles: int = 20,
    seed: int = 0,
    qc: int | None = None,
) -> np.ndarray:
    """(n, G) expected expression of the observed cells had they received `perturbation` instead: a condition's name,
    or amounts by perturbation.

    Abduction, action, prediction: each cell's exogenous latents are inferred under what it did receive, its dose is
    then set (None keeps it), its quality flags are set to `qc` (None keeps them; 0 cleans a cell of its artifact), and
    the decoder's mean is averaged over particles. Raises ValueError for a model without exogenous latents, such as
    SVAE+: an intervention would redraw all that it knows of the cell; and for `qc` in a model that reads no flag.
    """
    if not model.exogenous:
        raise ValueError(
            f"{type(model).__name__} has no exogenous latents, so nothing of an observed cell would be kept; "
            "use average_effects."
        )
    out = np.empty(data.shape, dtype=np.float32)
    with evaluating(model, seed) as like:
        shared = Trace(particles)
        model.infer_shared(shared)
        changes = {} if perturbation is None else {"dose": data.dose_of(perturbation).to(like)}
        if qc is not None:
            if all(site.plate is not Plate.QC for site in shared.sites.values()):
                raise ValueError(f"{type(model).__name__} reads no quality flag, so qc={qc} changes nothing; leave it.")
            changes["qc"] = like.new_full((1, len(data.quality)), qc)
        for rows in cell_blocks(data, particles):
            b = data.batch(rows, dtype=like.dtype).to(like.device)
            q = Trace(particles, given=shared.values)
            model.infer_cells(q, b)
            p = Trace(particles, given={n: v for n, v in q.values.items() if n in model.exogenous or n in shared.sites})
            out[rows] = model.generate(p, b.condition.do(**changes)).mean.mean(0).cpu().numpy()
    return out


def latents(model: Model, data: PerturbationData, particles: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    """name -> (n, K) posterior mean of every cell latent, averaged over draws of the shared ones."""
    parts: dict[str, list[np.ndarray]] = {}
    with evaluating(model, seed) as like:
        shared = Trace(particles)
        model.infer_shared(shared)
        for rows in cell_blocks(data, particles):
            q = Trace(particles, given=shared.values)
            model.infer_cells(q, data.batch(rows, dtype=like.dtype).to(like.device))
            for name, site in q.sites.items():
                mean = site.distribution.mean.expand(site.value.shape).mean(0)
                parts.setdefault(name, []).append(mean.cpu().numpy())
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def cell_blocks(data: PerturbationData, particles: int) -> Iterator[slice]:
    """Slices of cells so small that (particles, cells, genes) stays within ELEMENTS."""
    size = max(1, ELEMENTS // (particles * len(data.genes)))
    for start in range(0, len(data), size):
        yield slice(start, min(start + size, len(data)))


def _condition(dose: Tensor, library: float, data: PerturbationData) -> Condition:
    """Arms with one library size, no covariate and no quality flag set."""
    n = len(dose)
    return Condition(
        dose=dose,
        library=dose.new_full((n, 1), library),
        covariate=dose.new_zeros(n, len(data.covariates)),
        qc=dose.new_zeros(n, len(data.quality)),
    )


def _library_sizes(data: PerturbationData, library: str | float, blocks: int) -> np.ndarray:
    if library == "data":
        untreated = np.asarray(data.labels) == data.control
        sizes = np.asarray(data.library).ravel()
        return np.quantile(sizes[untreated] if untreated.any() else sizes, (np.arange(blocks) + 0.5) / blocks)
    if isinstance(library, str) or not library > 0:
        raise ValueError(f"library is {library!r}; give 'data' or a number of counts above 0.")
    return np.full(blocks, float(library))
