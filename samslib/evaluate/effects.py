"""Interventions on a trained model: samples, average treatment effects, counterfactuals, latents."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from samslib.alignment import align
from samslib.cells import Condition, Plate
from samslib.data.container import PerturbationData
from samslib.evaluate.streams import cell_blocks, evaluating, reseed
from samslib.evaluate.tables import Named, arms, choose_readout, effect_table
from samslib.model import Model
from samslib.trace import Trace
from samslib.validation import left_out, whole

PARTICLES, ARMS = 25, 32  # draws and arms of a tile: fixed, so that no number depends on how the work is cut


def training_cells(model: Model, labels: Sequence[str], dose: Tensor) -> pd.DataFrame:
    """What the model saw of each arm's perturbations, as columns of obs; warns of arms with one that it never saw.

    Parameters
    ----------
    model
        A trained model.
    labels
        Names of the arms.
    dose
        (arms, T) doses.

    Returns
    -------
    DataFrame
        A row an arm: "training_cells" and "untrained", see `average_effects`.
    """
    counts = torch.tensor(model.summary.n_treated)
    cells = torch.where(dose.cpu() != 0, counts, model.summary.n_cells).amin(1).numpy()
    table = pd.DataFrame(
        {"training_cells": cells, "untrained": cells == 0}, index=pd.Index(labels, name="perturbation")
    )
    if never := list(table.index[table["untrained"]]):
        shown = ", ".join(map(repr, never[:3])) + (f" and {len(never) - 3} more" if len(never) > 3 else "")
        text = f"No training cell had {shown}, or a part of it: its effect is the prior's or the start's, not learned."
        warnings.warn(text, stacklevel=3)
    return table


def average_effects(
    model: Model,
    data: PerturbationData,
    perturbations: Sequence[Named] | None = None,
    particles: int = 2500,
    readout: str = "perturbseq",
    hold: bool | None = None,
    library: str | float | None = None,
    covariates: Sequence[str] = (),
    as_published: bool = False,
    *,
    seed: int = 0,
) -> anndata.AnnData:
    """Average treatment effect of each perturbation against control, by simulation from the trained model.

    ATE_t = E[g(x) | do(t)] - E[g(x) | do(control)], with g the readout. Each particle is one independent
    experiment: a draw of the shared latents from the posterior, the library size and covariates of a control cell
    of the data, and counts of that cell in every arm. Memory does not grow with particles, and numbers do not
    depend on how the work is cut.

    Parameters
    ----------
    model
        A trained model.
    data
        Data with the control cells.
    perturbations
        Names, new combinations, or amounts such as {"A": 0.5, "B": 2}. None: every condition of the data.
    particles
        Number of independent experiments, at least 2.
    readout
        The function g of expression; a name of `READOUTS`.
    hold
        Draw the exogenous latents once for all arms, which is the causal reading and has less variance. False, or a
        model that has none: each arm draws its own. None: True, unless `as_published`.
    library
        "data" for the library size of the control cell, or a number of counts. None: "data", unless `as_published`.
    covariates
        One level of each covariate, such as ["line=K562"], in place of the control cell's.
    as_published
        The official estimator: library=10,000 and hold=False.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        Perturbations x genes: X the effect; layers "standard_error", its Monte Carlo error (the arms share their
        control, so errors correlate between perturbations), and "variance" of g between cells of the arm; obs
        "training_cells", how many cells the model was trained on of the arm's perturbations (of the rarest), and
        "untrained", where that is 0 and the effect says nothing of cells (a warning too); var "control" and
        "control_variance", mean and variance of g in the control arm; uns["samslib"] the settings, with the median
        library size and the share of simulated cells without counts, which read as zero.

    Raises
    ------
    ValueError
        For an unknown perturbation, level or readout, fewer than 2 particles, the Perturb-seq readout of real
        values, covariates of a model that reads none, or `as_published` with another `hold` or `library`.

    References
    ----------
    Bereket and Karaletsos (2023), the SAMS-VAE paper, section 5.
    """
    data = align(data, model)
    read = choose_readout(readout, data)
    particles = whole("particles", particles, 2)  # a standard error needs two
    if as_published:
        left_out("as_published is hold=False", hold=hold or None)
        left_out("as_published is library=10,000", library=None if library == 10_000 else library)
    hold = not as_published if hold is None else hold
    library = (10_000.0 if as_published else "data") if library is None else library
    labels, dose = arms(data, perturbations)
    obs = training_cells(model, labels, dose)
    moments = {name: torch.zeros(2, len(dose), len(data.genes), dtype=torch.float64) for name in ("effect", "arm")}
    moments["control"] = torch.zeros(2, 1, len(data.genes), dtype=torch.float64)
    empty, depths = 0, []
    with evaluating(model, seed) as like:
        for tile in _simulate(model, data, dose.to(like), particles, hold, library, covariates, seed):
            control, treated = read(tile.control), read(tile.treated)
            parts = {"arm": (tile.arms, treated), "effect": (tile.arms, treated - control)}
            if tile.arms.start == 0:
                parts["control"] = (slice(None), control)
                depths.append(tile.library)
            for name, (rows, g) in parts.items():
                moments[name][:, rows] += torch.stack([g.sum(0), g.square().sum(0)]).double().cpu()
            empty += int((tile.treated.sum(-1) == 0).sum())
    mean = {name: m[0] / particles for name, m in moments.items()}
    variance = {
        n: (m[1] / particles - mean[n].square()).clamp(min=0) * particles / (particles - 1) for n, m in moments.items()
    }
    settings = {"particles": particles, "readout": readout, "hold": hold, "library": str(library), "seed": seed}
    settings |= {"covariates": ", ".join(covariates), "median_library": float(torch.cat(depths).median())}
    settings |= {"empty_cells": empty / (particles * max(len(dose), 1))}
    return effect_table(
        data,
        obs,
        mean["effect"].numpy(),
        {
            "standard_error": (variance["effect"] / particles).sqrt().numpy(),
            "variance": variance["arm"].numpy(),
        },
        (mean["control"][0].numpy(), variance["control"][0].numpy()),
        settings,
    )


def posterior_effects(
    model: Model,
    data: PerturbationData,
    perturbations: Sequence[Named] | None = None,
    draws: int = 100,
    cells: int = 50,
    readout: str = "perturbseq",
    library: str | float = "data",
    covariates: Sequence[str] = (),
    *,
    seed: int = 0,
) -> anndata.AnnData:
    """How uncertain the posterior leaves each average treatment effect: its variance over draws of the shared latents.

    The standard error of `average_effects` is of its simulation and vanishes with more particles; this variance
    stays. It is that of ATE_t(E, M) = E[g(x) | do(t), E, M] - E[g(x) | do(control), E, M] over (E, M) from the
    posterior. Each draw of the shared latents meets a number of control cells, half of them for one estimate of its
    effect and half for another; the covariance of the two over draws is the variance, because their simulation
    errors are independent. Exogenous latents are held between arms. Memory grows neither with draws nor with cells.

    Parameters
    ----------
    model
        A trained model.
    data
        Data with the control cells.
    perturbations
        As in `average_effects`.
    draws
        Number of draws of the shared latents, at least 2.
    cells
        Number of control cells for each draw; even.
    readout
        The function g of expression; a name of `READOUTS`.
    library
        "data" for the library size of the control cell, or a number of counts.
    covariates
        One level of each covariate, in place of the control cell's.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        The table of `average_effects`, with layers "posterior_variance", unbiased and so a little negative where
        there is next to none, and "standard_error", of X over draws. A model without shared latents, such as the
        conditional VAE, has none of this variance; that of the weights is not in it for any model.

    Raises
    ------
    ValueError
        For an odd number of cells, fewer than 2 draws, and as `average_effects` does.
    """
    data = align(data, model)
    read = choose_readout(readout, data)
    draws, cells = whole("draws", draws, 2), whole("cells", cells, 2)
    if cells % 2:
        raise ValueError(f"cells is {cells}; give an even number: half of them for each of two estimates.")
    labels, dose = arms(data, perturbations)
    obs = training_cells(model, labels, dose)
    G = len(data.genes)
    halves = torch.zeros(2, min(draws, PARTICLES), len(dose), G, dtype=torch.float64)  # two estimates of each draw
    sums = torch.zeros(4, len(dose), G, dtype=torch.float64)  # of both, of their squared sum and of their product
    control = torch.zeros(2, G, dtype=torch.float64)
    with evaluating(model, seed) as like:
        for tile in _simulate(model, data, dose.to(like), draws, True, library, covariates, seed, range(1, cells + 1)):
            g0 = read(tile.control)
            if tile.arms.start == 0:
                control += torch.stack([g0.sum((0, 1)), g0.square().sum((0, 1))]).double().cpu()
            P = len(tile.library)  # fewer draws in the last block
            halves[tile.cell % 2, :P, tile.arms] += (read(tile.treated) - g0).double().cpu() * 2 / cells
            if tile.cell == cells:
                a, b = halves[:, :P, tile.arms]
                sums[:, tile.arms] += torch.stack([a.sum(0), b.sum(0), (a + b).square().sum(0), (a * b).sum(0)])
                halves[:, :, tile.arms] = 0
    a, b, square, product = sums / draws
    count = draws * cells
    mean, bessel = control[0] / count, draws / (draws - 1)
    settings = {"draws": draws, "cells": cells, "readout": readout, "library": str(library), "seed": seed}
    return effect_table(
        data,
        obs,
        ((a + b) / 2).numpy(),
        {
            "posterior_variance": ((product - a * b) * bessel).numpy(),
            "standard_error": (((square - (a + b).square()) * bessel).clamp(min=0) / 4 / draws).sqrt().numpy(),
        },
        (mean.numpy(), ((control[1] / count - mean.square()).clamp(min=0) * count / (count - 1)).numpy()),
        settings | {"covariates": ", ".join(covariates)},
    )


def sample_cells(
    model: Model,
    data: PerturbationData,
    perturbations: Sequence[Named] | None = None,
    cells: int = 100,
    library: str | float = "data",
    covariates: Sequence[str] = (),
    *,
    seed: int = 0,
) -> anndata.AnnData:
    """Cells drawn from the trained model, each with latents and a control cell of its own.

    Parameters
    ----------
    model
        A trained model.
    data
        Data with the control cells whose library sizes and covariates are used.
    perturbations
        Names, new combinations, or amounts such as {"A": 0.5, "B": 2}. None: every condition of the data, with
        control.
    cells
        Number of cells drawn for each perturbation.
    library
        "data" for the library size of a control cell, or a number of counts for all.
    covariates
        One level of each covariate, such as ["line=K562"], in place of the control cell's.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR) or real values; obs "perturbation".

    Raises
    ------
    ValueError
        As `average_effects` does.
    """
    data, cells = align(data, model), whole("cells", cells, 1)
    labels, dose = arms(data, list(data.conditions().index) if perturbations is None else perturbations)
    training_cells(model, labels, dose)
    blocks: dict[int, list] = {}
    with evaluating(model, seed) as like:
        for tile in _simulate(model, data, dose.to(like), cells, False, library, covariates, seed):
            for row, x in zip(range(tile.arms.start, tile.arms.stop), tile.treated.unbind(1), strict=True):
                values = x.cpu().numpy()
                blocks.setdefault(row, []).append(sp.csr_matrix(values) if data.counts else values)
    parts = [block for row in range(len(labels)) for block in blocks[row]]
    return anndata.AnnData(
        sp.vstack(parts, format="csr") if data.counts else np.concatenate(parts),
        obs=pd.DataFrame({"perturbation": np.repeat(labels, cells)}, index=[f"S{i}" for i in range(cells * len(dose))]),
        var=pd.DataFrame(index=pd.Index(data.genes, name="gene")),
    )


def counterfactual(
    model: Model,
    data: PerturbationData,
    perturbation: str | Mapping[str, float] | None,
    particles: int = 20,
    qc: int | None = None,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Expected expression of the observed cells, had they received another perturbation.

    Abduction, action, prediction: each cell's exogenous latents are inferred under what it did receive, its dose
    and flags are then set, and the decoder's mean is averaged over particles.

    Parameters
    ----------
    model
        A trained model with exogenous latents.
    data
        The observed cells.
    perturbation
        A condition's name, or amounts by perturbation. None keeps each cell's own dose.
    particles
        Number of draws of the latents.
    qc
        Quality flags to be set: 0 cleans a cell of its artifact. None keeps each cell's own.
    seed
        Seed of the draws.

    Returns
    -------
    ndarray
        (n, G), in the units of x.

    Raises
    ------
    ValueError
        For a model without exogenous latents, such as SVAE+, where an intervention would redraw all that is known
        of the cell; and for `qc` in a model that reads no flag.
    """
    if not model.exogenous:
        raise ValueError(
            f"{type(model).__name__} has no exogenous latents, so nothing of an observed cell would be kept; "
            "use average_effects."
        )
    data, particles = align(data, model), whole("particles", particles, 1)
    out = np.empty(data.shape, dtype=np.float32)
    if perturbation is not None:
        training_cells(model, *arms(data, [perturbation]))
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


def latents(model: Model, data: PerturbationData, particles: int = 20, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Posterior means of the latents of each cell, averaged over draws of the shared ones.

    Parameters
    ----------
    model
        A trained model.
    data
        The observed cells.
    particles
        Number of draws of the shared latents.
    seed
        Seed of the draws.

    Returns
    -------
    dict
        Name of the latent -> (n, K) means.
    """
    data, particles = align(data, model), whole("particles", particles, 1)
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


@dataclass(frozen=True)
class _Tile:
    """A few particles of a few arms: counts treated (P, arms, G) and control (P, 1, G), library (P,), all of them with
    the `cell`-th control cell of each draw of the shared latents."""

    arms: slice
    cell: int
    treated: Tensor
    control: Tensor
    library: Tensor


def _simulate(
    model: Model,
    data: PerturbationData,
    dose: Tensor,
    particles: int,
    hold: bool,
    library: str | float,
    covariates: Sequence[str],
    seed: int,
    cells: Sequence[int] = (0,),
) -> Iterator[_Tile]:
    """Experiments tile by tile, one for each of the numbered `cells` with each draw of the shared latents. The tiles'
    size is fixed and each has a random stream of its own; cell 0 goes on with that of the shared latents."""
    active = dose.any(0).nonzero().squeeze(1)
    dose = dose[:, active]
    if covariates and "covariates" not in model.uses:
        left_out(f"{type(model).__name__} reads none", covariates=covariates)
    draw_controls = _control_sampler(data, library, covariates)
    none = dose.new_zeros(1, len(data.quality))
    for block, start in enumerate(range(0, particles, PARTICLES)):
        P = min(PARTICLES, particles - start)
        reseed(seed, block)
        shared = Trace(P, active={Plate.DOSE: active})
        model.infer_shared(shared)
        for cell in cells:
            if cell:
                reseed(seed, block, len(dose), cell)
            depth, levels = (value.to(dose) for value in draw_controls(P))
            untreated = Condition(dose.new_zeros(1, len(active)), depth, levels, none)
            t, control = _draw_arms(model, untreated, shared, shared.values)
            held = {name: t[name] for name in model.exogenous} if hold else {}
            for i, first in enumerate(range(0, len(dose), ARMS)):
                reseed(seed, block, i, cell)
                rows = slice(first, min(first + ARMS, len(dose)))
                n = rows.stop - first
                c = Condition(dose[rows], depth.expand(-1, n, -1), levels.expand(-1, n, -1), none.expand(n, -1))
                given = shared.values | {name: value.expand(-1, n, -1) for name, value in held.items()}
                yield _Tile(rows, cell, _draw_arms(model, c, shared, given)[1], control, depth.flatten())


def _draw_arms(model: Model, c: Condition, shared: Trace, given: Mapping[str, Tensor]) -> tuple[Trace, Tensor]:
    """The trace of a pass with the shared latents' particles and rows, and x (P, n, G) drawn at its end."""
    t = Trace(shared.particles, given=given, active=shared.active)
    return t, model.generate(t, c).sample()


def _control_sampler(
    data: PerturbationData, library: str | float, covariates: Sequence[str]
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """P -> library (P, 1, 1) and covariate (P, 1, C) of P control cells drawn with replacement, or as they are set.
    Without controls, any cells are drawn."""
    if isinstance(library, str) and library != "data" or not isinstance(library, str) and not library > 0:
        raise ValueError(f"library is {library!r}; give 'data' or a number of counts above 0.")
    levels = data.levels_of(covariates) if covariates else None
    untreated = np.flatnonzero(data.n_perturbations == 0)
    cells = untreated if len(untreated) else np.arange(len(data))

    def draw(P: int) -> tuple[Tensor, Tensor]:
        at = cells[torch.randint(len(cells), (P,)).numpy()]
        depth = data.library[at] if library == "data" else np.full(P, float(library))
        chosen = torch.as_tensor(data.covariate[at]) if levels is None else levels.expand(P, -1)
        return torch.as_tensor(depth)[:, None, None], chosen[:, None]

    return draw
