"""Cells with a known truth: two published simulations, a Perturb-seq experiment, screens of guides and of doses.

All return an AnnData with `obs["perturbation"]`, `obsm["z_basal"]` and `obsm["z"]` (n, K), and
`uns["truth"]` = {"perturbations" (T,), "M" (T, K) 0/1 mask, "E" (T, K) effects}: the shift of a cell that
received perturbation t is M[t] * E[t]; at the doses of `dose_response`, a curve times that. `uns["simulation"]` says
which function, parameters and seed made it.
Every draw comes from one NumPy PCG64 generator, so a seed gives the same cells on every machine. The laws of
the published simulations are kept, their random streams are not.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from types import SimpleNamespace as Law
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from samslib.validation import above, at_least, choose, number, require, share, whole

VERSION = 1  # of the random streams below: a change that gives other cells raises it

SHARES = ("epistasis", "mask_probability", "own_probability", "shared", "sparsity")
MAY_BE_ZERO = ("hidden_layers", "pairs", "controls")
PARTS = {"magnitude": ("mean", "deviation"), "strength": ("least", "most")}  # other pairs are a median and a deviation


def _check(name: str, value: Any, default: Any) -> None:
    """What may be given for an argument follows from its name and the kind of its default."""
    if name in SHARES:
        share(**{name: value})
    elif type(default) is int:
        require(not isinstance(value, float), f"{name} is {value!r}; it must be a whole number.")
        whole(name, value, int(name not in MAY_BE_ZERO))
    elif name == "cells":
        parts = len(value) == 3 and min(value) >= 0 and sum(value) > 0
        require(parts, f"cells is {value}; it must be three numbers (train, val, test) a perturbation, not all zero.")
    elif type(default) is tuple:
        for part, one in zip(PARTS.get(name, ("median", "deviation")), value, strict=True):
            _check(f"{name} {part}", one, 0.0)
    elif type(default) is float and name != "magnitude mean":
        (above if name.endswith("median") else at_least)(0, **{name: number(name, value)})


def _begin(law: Callable[..., AnnData], given: dict[str, Any]) -> tuple[np.random.Generator, Law]:
    """The generator of a simulator and its arguments, each checked unless it is the default."""
    for name, parameter in inspect.signature(law).parameters.items():
        if name != "seed" and given[name] is not parameter.default:
            _check(name, given[name], parameter.default)
    return np.random.Generator(np.random.PCG64(given["seed"])), Law(**given, generator=law.__name__)


def _names(letter: str, count: int) -> list[str]:
    """P01, P02, ...: plainly not the names of genes."""
    return [f"{letter}{i:0{max(2, len(str(count)))}d}" for i in range(1, count + 1)]


def _orthogonal(rng: np.random.Generator, inputs: int, outputs: int) -> np.ndarray:
    """(inputs, outputs) matrix whose rows or columns (the fewer) are orthonormal, uniform among such matrices."""
    q, r = np.linalg.qr(rng.normal(size=(max(inputs, outputs), min(inputs, outputs))))
    q = q * np.sign(np.diag(r))
    return q if inputs >= outputs else q.T


def _layer(rng: np.random.Generator, inputs: int, outputs: int, init: str, sparsity: float) -> np.ndarray:
    if init == "orthogonal":
        return _orthogonal(rng, inputs, outputs)
    weights = rng.normal(size=(inputs, outputs))
    if init == "kaiming":
        return weights * np.sqrt(2 / inputs)
    for row in weights:
        row[rng.permutation(outputs)[: int(np.ceil(sparsity * outputs))]] = 0
    return weights


def _decode(z: np.ndarray, layers: Sequence[np.ndarray]) -> np.ndarray:
    """(n, G) output of a bias-free network with leaky rectifiers (slope 0.2) between its layers."""
    for weights in layers[:-1]:
        z = z @ weights
        z = np.where(z > 0, z, 0.2 * z)
    return z @ layers[-1]


def _states(rng: np.random.Generator, shift: np.ndarray) -> dict[str, np.ndarray]:
    """Basal and shifted states of cells, (n, K) each."""
    z_basal = rng.normal(size=shift.shape)
    return {"z_basal": z_basal, "z": z_basal + shift}


def _package(law: Law, x: Any, labels: Sequence[str], states: dict[str, np.ndarray], *truth: Any) -> AnnData:
    """The AnnData of a simulation; `truth` is the perturbations, M and E."""
    obs = pd.DataFrame({"perturbation": pd.Categorical(labels)}, index=_names("C", len(labels)))
    obsm = {name: z.astype(np.float32) for name, z in states.items()}
    adata = AnnData(x, obs=obs, var=pd.DataFrame(index=_names("G", law.genes)), obsm=obsm)
    names, mask, effect = truth
    adata.uns["truth"] = {"perturbations": np.array(names, object), "M": np.int8(mask), "E": np.float32(effect)}
    unsaid = ("seed", "generator", *(name for name in ("epistasis", "saturation") if not getattr(law, name, 0)))
    parameters = {name: value for name, value in vars(law).items() if name not in unsaid}
    made = {"generator": law.generator, "parameters": json.dumps(parameters, sort_keys=True)}
    adata.uns["simulation"] = made | {"seed": law.seed, "version": VERSION}
    return adata


def _in_parts(law: Law, x: Any, states: dict[str, np.ndarray], *truth: Any) -> AnnData:
    """A published simulation: rows cycle through the perturbations; first for training, then validation, then test."""
    names = _names("P", law.perturbations)
    adata = _package(law, x, names * sum(law.cells), states, names, *truth)
    adata.obs["split"] = pd.Categorical(np.repeat(["train", "val", "test"], np.multiply(law.cells, law.perturbations)))
    return adata


def sams_vae_simulation(
    perturbations: int = 100,
    genes: int = 100,
    latent: int = 15,
    hidden_layers: int = 4,
    width: int = 50,
    mask_probability: float = 2 / 15,
    magnitude: tuple[float, float] = (5.0, 0.5),
    cells: tuple[int, int, int] = (500, 100, 100),
    noise: float = 0.2,
    exponential: bool = False,
    init: str = "orthogonal",
    sparsity: float = 0.5,
    *,
    seed: int = 0,
) -> AnnData:
    """The simulation of the SAMS-VAE paper: real values with Gaussian noise, single perturbations, no control cells.

    z = z_basal + M E of the cell's perturbation, with z_basal ~ N(0, I). The mean is a bias-free network of z (leaky
    rectifiers of slope 0.2), divided gene by gene by its standard deviation over all cells.

    Parameters
    ----------
    perturbations, genes, latent
        Numbers of perturbations, genes and latent axes.
    hidden_layers, width
        Number of hidden layers of the network, and of units in each.
    mask_probability
        Of M ~ Bernoulli.
    magnitude
        Mean and deviation of a Normal; E has these values with a random sign.
    cells
        Training, validation and test cells of each perturbation; rows cycle through the perturbations, and
        `obs["split"]` says which.
    noise
        Share of each gene's variance that is noise, below 1.
    exponential
        Whether the mean is exponentiated.
    init
        Weights: "orthogonal", "kaiming" (normal), or "sparse" (unit normal, some of them zero).
    sparsity
        Share of zeros of "sparse".
    seed
        Of all draws.

    Returns
    -------
    X is (n, G) float32, `layers["mean"]` its noise-free mean. Likelihood to fit: Normal.

    Raises
    ------
    ValueError
        For sizes below 1, shares outside [0, 1] and unknown inits.

    References
    ----------
    Bereket and Karaletsos 2023 (SAMS-VAE), simulation study; values of the published code.
    """
    rng, law = _begin(sams_vae_simulation, locals())
    require(noise < 1, f"noise is {noise}; as a share of the variance it must be at least 0 and below 1.")
    choose("init", init, ("orthogonal", "kaiming", "sparse"))
    mask = rng.random((perturbations, latent)) < mask_probability
    effect = rng.normal(*magnitude, mask.shape) * rng.choice([-1, 1], mask.shape)
    layers = [_layer(rng, *pair, init, sparsity) for pair in pairwise([latent, *[width] * hidden_layers, genes])]
    states = _states(rng, np.tile(mask * effect, (sum(cells), 1)))
    mean = _decode(states["z"], layers)
    mean = mean / _or_one(mean.std(0, ddof=1) if len(mean) > 1 else np.zeros(genes))
    mean = np.exp(mean) if exponential else mean
    variance = _or_one(noise / (1 - noise) * mean.var(0, ddof=1)) if len(mean) > 1 else np.ones(genes)
    x = mean + rng.normal(size=mean.shape) * np.sqrt(variance if noise else 0 * variance)
    adata = _in_parts(law, x.astype(np.float32), states, mask, effect)
    adata.layers["mean"] = mean.astype(np.float32)
    return adata


def _or_one(values: Any) -> np.ndarray:
    return np.where(values == 0, 1.0, values)


def svae_plus_simulation(
    perturbations: int = 100,
    genes: int = 100,
    latent: int = 15,
    width: int = 40,
    magnitude: tuple[float, float] = (5.0, 0.5),
    cells: tuple[int, int, int] = (500, 100, 100),
    mask_probability: float | None = None,
    total: float = 1e6,
    *,
    seed: int = 0,
) -> AnnData:
    """The simulation of the SVAE+ paper: Poisson counts, each perturbation moves the mean of one to three latent axes.

    z ~ Normal(M E, I), through three hidden layers with orthonormal weights times a Xavier gain. The outputs, over
    their global deviation, pass a softmax over the CELLS of each gene, as published.

    Parameters
    ----------
    perturbations, genes, latent, width
        Numbers of perturbations, genes, latent axes and hidden units; latent <= width <= genes.
    magnitude
        Mean and deviation of a Normal; E has these values with a random sign.
    cells
        As in `sams_vae_simulation`.
    mask_probability
        Of M ~ Bernoulli; None for one, two or three draws of an axis with replacement.
    total
        Counts of each gene, spread over all cells.
    seed
        Of all draws.

    Returns
    -------
    X is (n, G) CSR float32.

    Raises
    ------
    ValueError
        As `sams_vae_simulation` does, and for sizes in another order.

    References
    ----------
    Lopez et al. 2023 (SVAE+), simulation study, in the port of the SAMS-VAE authors.
    """
    rng, law = _begin(svae_plus_simulation, locals())
    found = f"{latent}, {width} and {genes}"
    require(latent <= width <= genes, f"latent <= width <= genes is needed, but they are {found}.")
    if mask_probability is None:
        mask = np.zeros((perturbations, latent), dtype=bool)
        for row in mask:
            row[rng.integers(latent, size=rng.integers(1, 4))] = True
    else:
        mask = rng.random((perturbations, latent)) < mask_probability
    effect = rng.normal(*magnitude, mask.shape) * rng.choice([-1, 1], mask.shape)
    states = _states(rng, np.tile(mask * effect, (sum(cells), 1)))
    rectifier = np.sqrt(2 / 1.04)  # gain for a slope of 0.2
    sizes = pairwise((latent, width, width, width, genes))
    layers = [_orthogonal(rng, *pair) * (rectifier * np.sqrt(2 / sum(pair))) for pair in sizes]
    logits = _decode(states["z"], layers)
    logits = logits / _or_one(logits.std())
    portion = np.exp(logits - logits.max(0))
    x = rng.poisson(total * portion / portion.sum(0)).astype(np.float32)
    return _in_parts(law, sp.csr_matrix(x), states, mask, effect)


def perturb_seq(
    singles: int = 20,
    pairs: int = 15,
    cells: int = 85,
    controls: int = 100,
    genes: int = 150,
    latent: int = 15,
    mask_probability: float = 2 / 15,
    effect_scale: float = 5.0,
    width: int = 50,
    slope: float = 1.5,
    library: tuple[float, float] = (138.0, 0.50),
    gene_spread: float = 2.16,
    concentration: tuple[float, float] = (2.0, 1.0),
    epistasis: float = 0.0,
    saturation: float = 0.0,
    *,
    seed: int = 0,
) -> AnnData:
    """A Perturb-seq experiment drawn from the SAMS model: counts of controls, singles and pairs.

    z_basal ~ N(0, I); M ~ Bernoulli(mask_probability); E ~ Normal(0, effect_scale); z = z_basal + sum of M E over the
    cell's perturbations. Pairs may add up (by default), have a shift of their own, or saturate. A bias-free network
    (orthonormal weights, leaky rectifier of slope 0.2) of z is added to a log-normal profile of genes. Counts are
    negative binomial around the softmax over genes times the cell's expected total; cells without counts are drawn
    again.

    Defaults follow the real cells of `samslib.datasets.load("norman-devel")` on the 136 genes seen in at least three
    training cells, followed by those of the default draw: 3,375 cells (3,075); 100 cells a condition (85, controls
    100); median counts a cell 126 (127); standard deviation of log counts a cell 0.70 (0.65); share of zeros 0.891
    (0.894); deviation of log gene means 2.16 (`gene_spread`); median concentration 1.3 (2). In the real cells four
    genes hold 87% of the counts, which no log-normal profile does.

    Parameters
    ----------
    singles, pairs
        Numbers of perturbations, and of pairs of them, which are drawn at random.
    cells, controls
        Cells of each condition, and control cells; in random order.
    genes, latent, width
        Numbers of genes, latent axes and hidden units.
    mask_probability, effect_scale
        Of M and E.
    slope
        Deviation of a gene's logit by basal states alone.
    library
        Median and log deviation of the expected total of a cell.
    gene_spread
        Log deviation of the profile of genes.
    concentration
        Median and log deviation over genes of the negative binomials' concentration.
    epistasis
        Share of the pairs, drawn at random and rounded, that have a further shift of their own. It is drawn as that of
        a perturbation is, and again where it would be empty.
    saturation
        c of the curve that shifts go through along each axis, tanh(c s) / c; 0 for none. The shift of a pair is the
        curve of the sum of the arguments s = M E.
    seed
        Of all draws.

    Returns
    -------
    X is (n, G) CSR float32. With epistasis, uns["truth"] also has "pairs" (labels), "M_pair" and "E_pair" (pairs, K),
    zero where a pair adds up.

    Raises
    ------
    ValueError
        For sizes below 1, more pairs than there are, shares outside [0, 1], negative or infinite scales, epistasis of
        empty masks, and settings so poor in counts that a cell stays empty.

    References
    ----------
    Bereket and Karaletsos 2023 (SAMS-VAE), section 3; the likelihood is the library negative binomial of its
    experiments.
    """
    rng, law = _begin(perturb_seq, locals())
    names = _names("P", singles)
    possible = list(combinations(names, 2))
    require(pairs <= len(possible), f"pairs is {pairs}, but {singles} singles make {len(possible)}; ask for fewer.")
    require(mask_probability > 0 or not epistasis, "mask_probability is 0, so no pair has a shift; raise it.")
    mask = rng.random((singles, latent)) < mask_probability
    effect = effect_scale * rng.normal(size=(singles, latent))
    chosen = sorted(rng.choice(len(possible), pairs, replace=False)) if pairs else []
    conditions = [(), *[(name,) for name in names], *[possible[i] for i in chosen]]
    own = np.zeros((2, pairs, latent))  # mask and effect of each pair
    for pair in rng.choice(pairs, round(epistasis * pairs), replace=False) if epistasis else []:
        while not own[0, pair].any():
            own[:, pair] = rng.random(latent) < mask_probability, effect_scale * rng.normal(size=latent)
    further = np.vstack([np.zeros((1 + singles, latent)), own[0] * own[1]])
    adata = _screen(rng, law, conditions, names, mask, effect, further=further)
    if epistasis:
        labels = np.array(["+".join(condition) for condition in conditions[1 + singles :]], dtype=object)
        adata.uns["truth"] |= {"pairs": labels, "M_pair": np.int8(own[0]), "E_pair": np.float32(own[1])}
    return adata


def _screen(
    rng: np.random.Generator, law: Law, conditions: list[tuple], names: list[str], *truth: Any, further: Any = 0.0
) -> AnnData:
    """Counts of controls, the first condition, and of cells of each other, in random order; `truth` is M and E,
    `further` what a condition's shift has beside them."""
    dose = np.array([[name in condition for name in names] for condition in conditions], dtype=float)
    labels = np.array(["+".join(condition) or "control" for condition in conditions], dtype=object)
    shifts, c = dose @ np.multiply(*truth), getattr(law, "saturation", 0.0)
    shifts = (np.tanh(c * shifts) / c if c else shifts) + further
    return _cells(rng, law, labels, shifts, names, *truth)[0]


def _cells(
    rng: np.random.Generator, law: Law, labels: np.ndarray, shifts: np.ndarray, names: list[str], *truth: Any
) -> tuple[AnnData, np.ndarray, dict[str, Any]]:
    """Cells of conditions by their labels and shifts, the number of each cell's condition, and the law of counts."""
    treated = rng.permutation(np.repeat(np.arange(len(labels)), [law.controls] + [law.cells] * len(labels[1:])))
    states = _states(rng, shifts[treated])
    x, decoder = _count(rng, law, **states)
    return _package(law, sp.csr_matrix(x), labels[treated], states, names, *truth), treated, decoder


def _count(rng: np.random.Generator, law: Law, z_basal: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Counts (n, G) of cells by their latent states (n, K), and their law: see `perturb_seq`."""
    first, last = _orthogonal(rng, law.latent, law.width), _orthogonal(rng, law.width, law.genes)
    scale = law.slope / _or_one(_decode(z_basal, (first, last)).std())
    decoder = {"first": first, "last": last, "scale": scale, "profile": law.gene_spread * rng.normal(size=law.genes)}
    total = law.library[0] * np.exp(law.library[1] * rng.normal(size=(len(z), 1)))
    theta = law.concentration[0] * np.exp(law.concentration[1] * rng.normal(size=law.genes))
    return _draw(rng, total * _shares(z, **decoder), theta), decoder | {"concentration": theta}


def _shares(z: np.ndarray, first: np.ndarray, last: np.ndarray, scale: Any, profile: np.ndarray) -> np.ndarray:
    """(n, G) share of each gene, a softmax."""
    logits = profile + scale * _decode(z, (first, last))
    portion = np.exp(logits - logits.max(1, keepdims=True))
    return portion / portion.sum(1, keepdims=True)


def _draw(rng: np.random.Generator, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Negative binomial counts, none of a cell all zero."""
    x = np.zeros(mean.shape, dtype=np.float32)
    for _ in range(101):  # quality control keeps no cell without counts
        if not len(empty := np.flatnonzero(x.sum(1) == 0)):
            return x
        x[empty] = rng.poisson(rng.gamma(theta, mean[empty] / theta))
    raise ValueError(f"{len(empty)} cells stay without counts; raise library, or lower gene_spread or slope.")


def guide_screen(
    targets: int = 24,
    guides: int = 2,
    pathways: int = 4,
    cells: int = 60,
    controls: int = 300,
    genes: int = 120,
    latent: int = 15,
    axes: int = 2,
    own_probability: float = 0.02,
    shared: float = 0.5,
    strength: tuple[float, float] = (0.4, 1.0),
    effect_scale: float = 5.0,
    width: int = 50,
    slope: float = 1.5,
    library: tuple[float, float] = (138.0, 0.50),
    gene_spread: float = 1.5,
    concentration: tuple[float, float] = (2.0, 1.0),
    *,
    seed: int = 0,
) -> AnnData:
    """A screen drawn from the SAMS model in which guides share a target gene and target genes share a pathway.

    Each pathway owns `axes` latent axes; no axis belongs to two. A guide has the mask of its target, and the target's
    effects times its strength. Guides are named P01_a, P01_b, ... by their target P01. Cells are counted as in
    `perturb_seq`. The law is ours; no published screen has it.

    Parameters
    ----------
    targets, guides, pathways
        Numbers of target genes, of guides of each, and of pathways.
    cells, controls
        Cells of each guide, and control cells; in random order.
    genes, latent, axes
        Numbers of genes, of latent axes, and of axes of each pathway.
    own_probability
        That the mask of a target is on along an axis outside its pathway; inside, it always is.
    shared
        Share of the effects' variance, along the axes of the pathway, that its targets have in common.
    strength
        Least and most strength of a guide, uniform between.
    effect_scale
        Standard deviation of effects.
    width, slope, library, gene_spread, concentration
        As in `perturb_seq`.
    seed
        Of all draws.

    Returns
    -------
    X is (n, G) CSR float32. obs also has "gene" (the target, for `PerturbationData.from_anndata(adata, target="gene")`;
    "non-targeting" for controls) and "pathway" ("none"), and uns["pathways"] lists the targets of each pathway, as in
    the screen of Replogle et al.; in uns["truth"], perturbations are guides.

    Raises
    ------
    ValueError
        As `perturb_seq` does, for more pathways than targets, a strength whose smaller value is not first, and if
        pathways * axes exceeds `latent`.
    """
    rng, law = _begin(guide_screen, locals())
    require(strength[0] <= strength[1], f"strength is {strength}; give the smaller value first.")
    require(pathways <= targets, f"pathways is {pathways}, but targets is {targets}; a pathway needs a gene.")
    wanted = f"{pathways} pathways of {axes} axes"
    require(pathways * axes <= latent, f"{wanted} need latent of {pathways * axes} at least, but it is {latent}.")

    home = np.arange(targets) % pathways
    of_axis = np.full(latent, -1)
    of_axis[rng.permutation(latent)[: pathways * axes]] = np.repeat(np.arange(pathways), axes)
    inside = home[:, None] == of_axis
    mask = inside | (rng.random((targets, latent)) < own_probability)
    common = rng.normal(size=(pathways, latent))[home]
    own = rng.normal(size=(targets, latent))
    effect = effect_scale * np.where(inside, np.sqrt(shared) * common + np.sqrt(1 - shared) * own, own)
    mask, effect = np.repeat(mask, guides, axis=0), np.repeat(effect, guides, axis=0)
    effect = effect * rng.uniform(*strength, (targets * guides, 1))

    pathway = {target: f"pathway {p + 1}" for target, p in zip(_names("P", targets), home, strict=True)}
    target_of = {f"{target}_{_letters(i)}": target for target in pathway for i in range(guides)}
    adata = _screen(rng, law, [(), *[(guide,) for guide in target_of]], list(target_of), mask, effect)
    target = adata.obs["perturbation"].astype(str).map(target_of)
    adata.obs["gene"] = pd.Categorical(target.fillna("non-targeting"))
    adata.obs["pathway"] = pd.Categorical(target.map(pathway).fillna("none"))
    members = np.array(list(pathway), dtype=object)
    adata.uns["pathways"] = {f"pathway {p + 1}": members[home == p] for p in range(pathways)}
    return adata


def dose_response(
    drugs: int = 12,
    levels: int = 6,
    cells: int = 50,
    controls: int = 300,
    genes: int = 120,
    latent: int = 10,
    lowest: float = 0.05,
    mask_probability: float = 0.2,
    effect_scale: float = 5.0,
    half: tuple[float, float] = (0.2, 0.8),
    hill: tuple[float, float] = (1.5, 0.4),
    width: int = 50,
    slope: float = 1.5,
    library: tuple[float, float] = (400.0, 0.5),
    gene_spread: float = 1.5,
    concentration: tuple[float, float] = (2.0, 1.0),
    *,
    seed: int = 0,
) -> AnnData:
    """A screen of drugs at several doses, drawn from the SAMS model with a Hill curve of the shift for each drug.

    z = z_basal + f_t(d) M E, with f_t(d) = d^h / (c^h + d^h) of the cell's drug and dose. M, E, cells and counts are as
    in `perturb_seq`. The law is ours; no published screen has it.

    Parameters
    ----------
    drugs, levels
        Numbers of drugs, and of doses of each: from `lowest` to 1, equal steps apart on the log scale.
    cells, controls
        Cells of each drug at each dose, and control cells; in random order.
    genes, latent
        Numbers of genes and of latent axes.
    lowest
        Smallest dose, between 0 and 1.
    mask_probability, effect_scale
        Of M and E, as in `perturb_seq`; the shift of a drug that is fully at work is M E.
    half, hill
        Median and log deviation over drugs of c, the dose of half the shift, and of h, the steepness.
    width, slope, library, gene_spread, concentration
        As in `perturb_seq`.
    seed
        Of all draws.

    Returns
    -------
    X is (n, G) CSR float32. obs also has "dose", 0 in controls, for `PerturbationData.from_anndata(dose="dose")`;
    uns["truth"] has "half" and "hill", (T,) each, and "counts", the law of counts, for `true_effects`.

    Raises
    ------
    ValueError
        As `perturb_seq` does, and for a lowest dose that is not between 0 and 1.
    """
    rng, law = _begin(dose_response, locals())
    above(0, 1, lowest=lowest)
    names, amounts = _names("P", drugs), np.tile(np.geomspace(lowest, 1, levels), drugs)
    mask = rng.random((drugs, latent)) < mask_probability
    effect = effect_scale * rng.normal(size=(drugs, latent))
    curve = {"half": half[0] * np.exp(half[1] * rng.normal(size=drugs))}
    curve["hill"] = hill[0] * np.exp(hill[1] * rng.normal(size=drugs))
    truth = {"perturbations": np.array(names, object), "M": mask, "E": effect, **curve}
    doses = np.vstack([np.zeros(drugs), amounts[:, None] * np.repeat(np.eye(drugs), levels, axis=0)])
    labels = np.array(["control", *np.repeat(names, levels)], dtype=object)
    adata, treated, counts = _cells(rng, law, labels, _shift(doses, truth), names, mask, effect)
    adata.obs["dose"] = doses.sum(1)[treated]
    adata.uns["truth"] |= {**curve, "counts": counts}
    return adata


def _shift(doses: np.ndarray, truth: dict[str, Any]) -> np.ndarray:
    """(arms, K) shift of doses (arms, T)."""
    with np.errstate(divide="ignore"):
        return 1 / (1 + (truth["half"] / doses) ** truth["hill"]) @ (truth["M"] * truth["E"])


def true_effects(
    adata: AnnData, doses: Sequence[dict[str, float]], cells: int = 20_000, *, seed: int = 0
) -> np.ndarray:
    """The true average effects of a screen of `dose_response` at any doses, seen or not.

    Parameters
    ----------
    adata
        The screen.
    doses
        Amounts by drug, such as [{"P01": 0.5}]; those of several drugs add up in latent space.
    cells
        Cells drawn for each, and for control; basal states and library sizes are the same for all.
    seed
        Of the cells.

    Returns
    -------
    ndarray
        (doses, G) differences to control of mean log2(1 + 10,000 x / sum of x), the readout of `average_effects`. With
        20,000 cells and the default counts the simulation's own error is about 0.02.

    Raises
    ------
    ValueError
        For a screen of another simulator, a drug that it does not have, and a dose that is negative or no number.
    """
    truth, law = adata.uns["truth"], json.loads(adata.uns["simulation"]["parameters"])
    require("counts" in truth, "The screen is not one of dose_response, whose truth alone holds dose curves.")
    names, rng = list(truth["perturbations"]), np.random.Generator(np.random.PCG64(seed))
    for name, dose in {(name, dose) for amounts in doses for name, dose in amounts.items()}:
        choose("The drug", name, tuple(names))
        number(f"The dose of {name!r}", dose, 0)
    amounts = np.array([[of.get(name, 0.0) for name in names] for of in [{}, *doses]])
    z_basal = rng.normal(size=(cells, law["latent"]))
    total = law["library"][0] * np.exp(law["library"][1] * rng.normal(size=(cells, 1)))
    decoder = {name: value for name, value in truth["counts"].items() if name != "concentration"}
    means = []
    for shift in _shift(amounts, truth):
        x = _draw(rng, total * _shares(z_basal + shift, **decoder), truth["counts"]["concentration"])
        means.append(np.log2(1 + 1e4 * x / x.sum(1, keepdims=True)).mean(0))
    return np.array(means[1:]) - means[0]


def _letters(i: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)
