"""Interventions on a trained model: samples, average treatment effects, counterfactuals, latents."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from samslib.alignment import align
from samslib.cells import Batch, Condition, Plate
from samslib.data.container import PerturbationData
from samslib.data.messages import quoted
from samslib.evaluate.streams import draw_shared, encode, evaluating, portions, reseed
from samslib.evaluate.tables import Named, arms, choose_readout, effect_table
from samslib.evaluate.variates import Adjusted, Drawn, seen
from samslib.model import Likelihood, Model
from samslib.trace import Trace
from samslib.validation import left_out, require, whole

Lent = tuple[Tensor, Tensor]  # libraries and covariates of control cells
ARMS = 32  # of a tile: fixed, so that no number depends on how the work is cut


def requested_arms(
    model: Model, data: PerturbationData, perturbations: Sequence[Named] | None
) -> tuple[PerturbationData, pd.DataFrame, Tensor]:
    """The arms asked for, and what the model saw of their perturbations; warns of arms with one that it never saw.

    Parameters
    ----------
    model
        A trained model.
    data
        Cells.
    perturbations
        As in `average_effects`.

    Returns
    -------
    tuple
        The cells as the model reads them; obs of a table of effects, a row an arm with "training_cells" and
        "untrained", see `average_effects`; and doses (arms, T).
    """
    data = align(data, model)
    labels, dose = arms(data, perturbations)
    cells = torch.where(dose != 0, torch.tensor(model.summary.n_treated), model.summary.n_cells).amin(1).numpy()
    obs = pd.DataFrame({"training_cells": cells, "untrained": cells == 0}, pd.Index(labels, name="perturbation"))
    if never := list(obs.index[obs["untrained"]]):
        text = f"No training cell had {quoted(never, 3)}, or a part of it: its effect is the start's, not learned."
        warnings.warn(text, stacklevel=3)
    return data, obs, dose


def average_effects(
    model: Model,
    data: PerturbationData,
    perturbations: Sequence[Named] | None = None,
    particles: int | None = None,
    readout: str = "perturbseq",
    hold: bool | None = None,
    library: str | float | None = None,
    covariates: Sequence[str] = (),
    as_published: bool = False,
    control_variates: bool | None = None,
    *,
    seed: int = 0,
) -> anndata.AnnData:
    """Average treatment effect of each perturbation against control, by simulation from the trained model.

    ATE_t = E[g(x) | do(t)] - E[g(x) | do(control)], with g the readout. Each particle is one independent
    experiment: a draw of the shared latents from the posterior, the library size and covariates of a control cell
    of the data, and counts of that cell in every arm. Memory does not grow with particles, and numbers do not
    depend on how the work is cut.

    Most of what counts add to the error is taken away by control variates, deviations of a cell's counts from what
    its latents say (`samslib.evaluate.variates`). The estimate stays unbiased. On simulated screens of 200 and 2,000
    counts a cell a ninth and a fifth of the plain variance was left, so that 500 particles do the work of 2,500.

    Parameters
    ----------
    model
        A trained model.
    data
        Data with the control cells.
    perturbations
        Names, new combinations, or amounts such as {"A": 0.5, "B": 2}. None: every condition of the data.
    particles
        Number of independent experiments, at least 2. None: 500, or 2,500 without control variates. With fewer than 50
        there is too little to learn the control variates' coefficients from, and they are 0.
    readout
        The function g of expression; a name of `READOUTS`. Of "mean", each cell's known mean takes the place of its
        counts or values.
    hold
        Draw the exogenous latents once for all arms, which is the causal reading and has less variance. False, or a
        model that has none: each arm draws its own. None: True, unless `as_published`.
    library
        "data" for the library size of the control cell, or a number of counts. None: "data", unless `as_published`.
    covariates
        One level of each covariate, such as ["line=K562"], in place of the control cell's.
    as_published
        The official estimator: library=10,000, hold=False and control_variates=False.
    control_variates
        Take away the part of the error that counts add and that can be told from their laws. None: True, unless
        `as_published`.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        Perturbations x genes: X the effect; layers "standard_error", the Monte Carlo error of X (the arms share their
        control, so errors correlate between perturbations), and "variance" of g between cells of the arm; obs
        "training_cells", how many cells the model was trained on of the arm's perturbations (of the rarest), and
        "untrained", where that is 0 and the effect says nothing of cells (a warning too); var "control" and
        "control_variance", mean and variance of g in the control arm; uns["samslib"] the settings, with the median
        library size and the share of simulated cells without counts, which read as zero.

    Raises
    ------
    ValueError
        For an unknown perturbation, level or readout, fewer than 2 particles, the Perturb-seq readout of real
        values, covariates of a model that reads none, or `as_published` with another `hold`, `library` or
        `control_variates`.

    References
    ----------
    Bereket and Karaletsos (2023), the SAMS-VAE paper, section 5; on control variates, `samslib.evaluate.variates`.
    """
    data, obs, dose = requested_arms(model, data, perturbations)
    read = choose_readout(readout, data)
    if as_published:
        left_out("as_published is hold=False", hold=hold or None)
        left_out("as_published is control_variates=False", control_variates=control_variates or None)
        left_out("as_published is library=10,000", library=None if library == 10_000 else library)
    hold = not as_published if hold is None else hold
    adjust = not as_published if control_variates is None else control_variates
    library = (10_000.0 if as_published else "data") if library is None else library
    particles = whole("particles", (500 if adjust else 2500) if particles is None else particles, 2)
    found, empty = torch.zeros(3, len(dose), len(data.genes), dtype=torch.float64), 0
    see = partial(seen, read=read, adjust=adjust)
    with evaluating(model, seed) as like:
        lent = _lent(model, data, library, covariates)
        for rows, tile in groupby(_simulate(model, dose.to(like), lent, particles, seed, hold), itemgetter(0)):
            (effect, arm, basal, control), depths = (Adjusted() for _ in range(4)), []
            for _, _, untreated, treated, depth in tile:
                (g0, y0, *c0), (g, y, *c) = see(untreated), see(treated)
                effect.add(y - y0, *c, *c0)
                arm.add(g)
                basal.add(y0, *c0)
                control.add(g0)
                depths.append(depth)
                empty += int((treated.x.sum(-1) == 0).sum())
            found[:, rows] = torch.stack([*effect.moments(), arm.moments()[1]])
    settings = {"particles": particles, "readout": readout, "hold": hold, "library": str(library), "seed": seed}
    settings |= {"covariates": ", ".join(covariates), "median_library": float(torch.cat(depths).median())}
    settings |= {"empty_cells": empty / (particles * len(dose)), "control_variates": adjust}
    layers = {"standard_error": (found[1] / particles).sqrt(), "variance": found[2]}
    return effect_table(data, obs, found[0], layers, (basal.moments()[0][0], control.moments()[1][0]), settings)


def posterior_effects(
    model: Model,
    data: PerturbationData,
    perturbations: Sequence[Named] | None = None,
    draws: int = 250,
    cells: int = 10,
    readout: str = "perturbseq",
    library: str | float = "data",
    covariates: Sequence[str] = (),
    control_variates: bool = True,
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
    control_variates
        As in `average_effects`; with fewer than 50 draws their coefficients are 0.
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
    data, obs, dose = requested_arms(model, data, perturbations)
    read = choose_readout(readout, data)
    draws, cells = whole("draws", draws, 2), whole("cells", cells, 2)
    require(cells % 2 == 0, f"cells is {cells}; give an even number: half of them for each of two estimates.")
    found = torch.zeros(3, len(dose), len(data.genes), dtype=torch.float64)
    see = partial(seen, read=read, adjust=control_variates)
    with evaluating(model, seed) as like:
        lent = _lent(model, data, library, covariates)
        experiments = _simulate(model, dose.to(like), lent, draws, seed, cells=range(1, cells + 1))
        for rows, tile in groupby(experiments, itemgetter(0)):
            (total, gap, basal, control), halves = (Adjusted() for _ in range(4)), torch.zeros(())
            for _, cell, untreated, treated, _ in tile:
                (g0, y0, *c0), (_, y, *c) = see(untreated), see(treated)
                basal.add(y0, *c0)
                control.add(g0)
                part = torch.stack(torch.broadcast_tensors(y - y0, *c, *c0)).double()
                part = torch.stack([part, part if cell % 2 else -part])
                halves = part if cell == 1 else halves + part  # sum over a draw's cells, and half less other half
                if cell == cells:
                    total.add(*halves[0])
                    gap.add(*halves[1])
            beta = gap.coefficients()  # the posterior moves both halves alike, so their difference is simulation alone
            mean, variance = total.moments(beta)
            found[:, rows] = torch.stack([mean * cells, variance, variance - gap.moments(beta)[1]]) / cells**2
    layers = {"posterior_variance": found[2], "standard_error": (found[1] / draws).sqrt()}
    settings = {"draws": draws, "cells": cells, "readout": readout, "library": str(library), "seed": seed}
    settings |= {"covariates": ", ".join(covariates), "control_variates": control_variates}
    return effect_table(data, obs, found[0], layers, (basal.moments()[0][0], control.moments()[1][0]), settings)


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
    cells = whole("cells", cells, 1)
    perturbations = list(data.conditions().index) if perturbations is None else perturbations
    data, obs, dose = requested_arms(model, data, perturbations)
    parts: list[tuple[int, sp.csr_matrix]] = []
    with evaluating(model, seed) as like:
        lent = _lent(model, data, library, covariates)
        for rows, _, _, treated, _ in _simulate(model, dose.to(like), lent, cells, seed, hold=False):
            parts += enumerate(map(sp.csr_matrix, treated.x.cpu().numpy().swapaxes(0, 1)), rows.start)
    x = sp.vstack([block for _, block in sorted(parts, key=itemgetter(0))], format="csr")
    labels = pd.DataFrame({"perturbation": np.repeat(obs.index, cells)}, [f"S{i}" for i in range(cells * len(obs))])
    genes = pd.DataFrame(index=pd.Index(data.genes, name="gene"))
    return anndata.AnnData(x if data.counts else x.toarray(), labels, genes)


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
    out = np.empty((len(data), len(model.summary.genes)), dtype=np.float32)
    for rows, law in _treated_otherwise(model, data, perturbation, particles, qc, seed):
        out[rows] = law.mean.mean(0).cpu().numpy()
    return out


def counterfactual_cells(
    model: Model,
    data: PerturbationData,
    perturbation: str | Mapping[str, float] | None,
    qc: int | None = None,
    *,
    seed: int = 0,
) -> anndata.AnnData:
    """The observed cells, drawn as they would have been under another perturbation.

    As `counterfactual`, with one draw of a cell's latents and then of its counts, so that the cells can be compared
    with real ones as distributions (`cell_scores`). Each keeps its library size and covariates. The draws of the
    shared latents are one for all cells.

    Parameters
    ----------
    model
        A trained model with exogenous latents.
    data
        The observed cells.
    perturbation
        A condition's name, or amounts by perturbation. None keeps each cell's own dose: the same cell, drawn again.
    qc
        Quality flags to be set; None keeps each cell's own.
    seed
        Seed of the draws.

    Returns
    -------
    AnnData
        Cells x genes in the order of the model: X the counts (CSR) or real values; obs "perturbation", what was set.

    Raises
    ------
    ValueError
        As `counterfactual` does.
    """
    data = align(data, model)
    laws = _treated_otherwise(model, data, perturbation, 1, qc, seed)
    x = sp.vstack([sp.csr_matrix(law.sample()[0].cpu().numpy()) for _, law in laws], format="csr")
    labels = data.labels if perturbation is None else arms(data, [perturbation])[0] * len(data)
    genes = pd.DataFrame(index=pd.Index(model.summary.genes, name="gene"))
    obs = pd.DataFrame({"perturbation": labels}, pd.Index(data.cells))
    return anndata.AnnData(x if data.counts else x.toarray(), obs, genes)


def _treated_otherwise(
    model: Model, data: PerturbationData, perturbation: Named | None, particles: int, qc: int | None, seed: int
) -> Iterator[tuple[slice, Likelihood]]:
    """(rows, law of the expression of these observed cells with dose and flags set), see `counterfactual`."""
    if not model.exogenous:
        raise ValueError(f"{type(model).__name__} has no exogenous latents to keep of a cell; use average_effects.")
    if qc is not None and "quality" not in model.uses:
        raise ValueError(f"{type(model).__name__} reads no quality flag, so qc={qc} changes nothing; leave it.")
    changes = {} if perturbation is None else {"dose": requested_arms(model, data, [perturbation])[2]}
    changes |= {} if qc is None else {"qc": torch.full((1, len(model.summary.quality)), qc)}
    for rows, b, q in _infer(model, data, particles, seed):
        kept = {n: v for n, v in q.values.items() if n in model.exogenous or n not in q.sites}
        c = b.condition.do(**{name: value.to(b.x) for name, value in changes.items()})
        yield rows, model.generate(Trace(particles, given=kept), c)


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
    parts = defaultdict(list)
    for _, _, q in _infer(model, data, particles, seed):
        for name, site in q.sites.items():
            parts[name].append(site.distribution.mean.expand(site.value.shape).mean(0).cpu().numpy())
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def _infer(model: Model, data: PerturbationData, particles: int, seed: int) -> Iterator[tuple[slice, Batch, Trace]]:
    """(rows, cells, the posterior's pass over them), all of them with the same draws of the shared latents."""
    data, shared = align(data, model), Trace(whole("particles", particles, 1))
    with evaluating(model, seed) as like:
        model.infer_shared(shared)
        for rows in portions(len(data), particles * len(data.genes)):
            b = data.batch(rows, dtype=like.dtype).to(like.device)
            yield rows, b, encode(model, b, shared)


def _simulate(
    model: Model, dose: Tensor, lent: Lent, particles: int, seed: int, hold: bool = True, cells: Sequence[int] = (0,)
) -> Iterator[tuple[slice, int, Drawn, Drawn, Tensor]]:
    """Experiments by tiles of a few arms and particles, one for each of the numbered `cells` with each draw of the
    shared latents: rows of the arms, number of the cell, control (P, 1, G), treated (P, arms, G), library (P,).

    The tiles' size is fixed and each has a random stream of its own; cell 0 goes on with that of the shared latents.
    """
    active = dose.any(0).nonzero().squeeze(1)
    for i, part in enumerate(dose[:, active].split(ARMS)):
        n = len(part)
        for block, shared in draw_shared(model, particles, seed, {Plate.DOSE: active}):
            for cell in cells:
                if cell:
                    reseed(seed, block, len(dose), cell)
                at = torch.randint(len(lent[0]), (shared.particles,))
                library, levels = (value[at, None].to(dose).expand(-1, n, -1) for value in lent)
                c = Condition(part, library, levels, dose.new_zeros(n, len(model.summary.quality)))
                basal, control = draw(model, c[:1].do(dose=torch.zeros_like(part[:1])), shared)
                held = {name: basal[name].expand(-1, n, -1) for name in model.exogenous if hold}
                reseed(seed, block, i, cell)
                treated = draw(model, c, shared, held)[1]
                yield slice(i * ARMS, i * ARMS + n), cell, control, treated, library[:, 0, 0]


def draw(model: Model, c: Condition, shared: Trace, held: Mapping[str, Tensor] | None = None) -> tuple[Trace, Drawn]:
    """Cells drawn from the model, given draws of the shared latents.

    Parameters
    ----------
    model
        A trained model.
    c
        Conditions of n cells, with the dose columns that `shared` drew.
    shared
        P draws of the shared latents.
    held
        Latents of the cells by name that are not drawn anew. None: no such latents.

    Returns
    -------
    tuple
        The pass, and the cells at its end.
    """
    t = Trace(shared.particles, given=shared.values | dict(held or {}), active=shared.active)
    law = model.generate(t, c)
    return t, Drawn(law, law.sample())


def _lent(model: Model, data: PerturbationData, library: str | float, covariates: Sequence[str]) -> Lent:
    """Library (n, 1) and covariates (n, C) of the control cells, or as they are set; of any cells where there are no
    controls."""
    if covariates and "covariates" not in model.uses:
        left_out(f"{type(model).__name__} reads none", covariates=covariates)
    if library != "data" and (isinstance(library, str) or not library > 0):
        raise ValueError(f"library is {library!r}; give 'data' or a number of counts above 0.")
    cells = np.flatnonzero((data.n_perturbations == 0) | data.n_perturbations.all())
    depth = data.library[cells] if library == "data" else np.full(len(cells), float(library))
    levels = data.levels_of(covariates).expand(len(cells), -1) if covariates else data.covariate[cells]
    return torch.as_tensor(depth)[:, None], torch.as_tensor(levels)
