"""SAMS-VAE past its paper, measured: sparsity without tuning, training that ends, guides and direct effects.

python -m samsbook.beyond sparsity     F1 of the masks on six simulated screens, without and with tuning
python -m samsbook.beyond default      the same of the default with its direct effects, which these screens do not have
python -m samsbook.beyond undecided    other settings where masks stay undecided, and whether undecided masks are right
python -m samsbook.beyond training     bound against seconds on the real screen tapseq, published settings and defaults
python -m samsbook.beyond settings     one setting of the training changed at a time, on a simulated screen
python -m samsbook.beyond direct       which effects are found where, on screens with effects on axes and on genes
python -m samsbook.beyond effects      effects of the real screen tapseq, with and without guides and direct effects
python -m samsbook.beyond norman       the same of norman-devel, whose perturbations are genes
python -m samsbook.beyond weighted     effects of both, and masks of the screens, by the importance-weighted bound
python -m samsbook.beyond sizes        bound and effects against the number of latent axes, on screens of 100 and of 300

Each writes `data/results/beyond-<name>.csv` with its provenance. The screens are fitted in two processes of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student

import samslib
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData
from samslib.evaluate.recovery import mask_recovery

SCREENS: dict[str, dict[str, Any]] = {  # what differs from COMMON, and the model's number of axes where 10 are true
    "sparse": {"mask_probability": 0.04, "axes": 20},
    "mid": {"mask_probability": 0.13, "axes": 20},
    "dense": {"mask_probability": 0.38, "axes": 20},
    "deep": {"mask_probability": 0.1, "library": (3000.0, 0.4), "axes": 20},
    "few cells": {"mask_probability": 0.1, "cells": 25, "axes": 20},
    "five times the axes": {"mask_probability": 0.1, "axes": 50},
}
COMMON = {"singles": 40, "pairs": 0, "cells": 80, "controls": 300, "genes": 120, "latent": 10, "library": (400.0, 0.4)}
PRIORS = (0.001, 0.01, 0.1)
DEFAULT, DIRECT = "default", "default, direct effects too"  # the first but for direct effects, which no screen here has
WEIGHTED = "importance-weighted, 10 particles"
TRAINED: dict[str, dict[str, Any]] = {WEIGHTED: {"objective": "iwelbo", "particles": 10}}  # settings of FitConfig
TRIED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # against undecided masks: of SAMSVAE, and of FitConfig
    "default": ({}, {}),
    "prior 0.001": ({"mask_prior": 0.001}, {}),
    "turned after 0.3 of the steps": ({"dense_start": 0.3}, {}),
    "half of the steps": ({}, {"steps": 750}),
    "twice the steps": ({}, {"steps": 3000}),
    "64 units": ({"encoder_width": 64, "decoder_width": 64}, {}),
    "weight decay 1e-4": ({}, {"weight_decay": 1e-4}),
}
WAYS: dict[str, dict[str, Any]] = {  # settings of SAMSVAE
    DEFAULT: {},
    **{f"no rotation, prior {p}": {"dense_start": 0.0, "mask_prior": p} for p in PRIORS},
    **{f"mean field, prior {p}": {"dense_start": 0.0, "posterior": "mean_field", "mask_prior": p} for p in PRIORS},
    **{f"correlated, prior {p}": {"dense_start": 0.0, "posterior": "correlated", "mask_prior": p} for p in PRIORS[1:]},
}


def simulated(screen: str, seed: int) -> tuple[anndata.AnnData, int]:
    """The cells of a screen of `SCREENS`, and the number of axes that its models have."""
    changed = {**COMMON, **SCREENS[screen]}
    axes = changed.pop("axes")
    return samslib.simulate.perturb_seq(**changed, seed=seed), axes


def true_masks(adata: anndata.AnnData, data: PerturbationData) -> np.ndarray:
    """(T, K) masks that the cells were made with, in the order of the data's perturbations."""
    truth = pd.DataFrame(adata.uns["truth"]["M"], index=list(adata.uns["truth"]["perturbations"]))
    return truth.loc[list(data.perturbations)].to_numpy() != 0


def recovered(screen: str, way: str, *, seed: int) -> dict[str, Any]:
    """One fit to one simulated screen, and how well its masks are those of the truth.

    Parameters
    ----------
    screen, way
        Names in `SCREENS`, and in `WAYS` or `TRAINED`.
    seed
        Seed of the screen, the weights and the training.

    Returns
    -------
    dict
        Names, seed, precision, recall and F1 of the masks (axes matched), the share of undecided entries (probability
        between 0.1 and 0.9), the validation bound in nats a cell, and the seconds of the fit.
    """
    torch.set_num_threads(1)
    adata, axes = simulated(screen, seed)
    data = PerturbationData.from_anndata(adata)
    train, val, _ = data.split(samslib.splits.random(seed=seed))
    model = samslib.SAMSVAE(
        data.summary(train), latent=axes, seed=seed, **{"direct": way == DIRECT, **WAYS.get(way, {})}
    )
    history = samslib.fit(model, train, val, FitConfig(seed=seed, progress=False, **TRAINED.get(way, {})))
    on = model.mask_logits.detach().sigmoid().numpy()
    found = mask_recovery(true_masks(adata, data), on).iloc[0]
    return {
        "screen": screen, "way": way, "seed": seed, **found, "undecided": float(((on > 0.1) & (on < 0.9)).mean()),
        "bound": -history["val_loss"].min() if model.options["dense_start"] == 0 else -_settled(history).min(),
        "seconds": history.attrs["seconds"],
    }  # fmt: skip


def undecided(screen: str, way: str, *, seed: int) -> dict[str, Any]:
    """One fit with settings that might make masks decide, and whether entries that stay undecided are right to be.

    Parameters
    ----------
    screen, way
        Names in `SCREENS` and `TRIED`.
    seed
        Seed of the screen, the weights and the training.

    Returns
    -------
    dict
        Names, seed, F1, the share of undecided entries, their mean probability and the share of them that is on in the
        truth (axes matched), and the held-out importance-weighted bound of test cells (50 particles), nats a cell.
    """
    torch.set_num_threads(1)
    (adata, axes), (options, config) = simulated(screen, seed), TRIED[way]
    data = PerturbationData.from_anndata(adata)
    train, val, test = data.split(samslib.splits.random(seed=seed))
    model = samslib.SAMSVAE(data.summary(train), latent=axes, seed=seed, direct=False, **options)
    samslib.fit(model, train, val, FitConfig(seed=seed, progress=False, **config))
    true = true_masks(adata, data)
    on = model.mask_logits.detach().sigmoid().numpy()
    matched = on[:, linear_sum_assignment(true.T.astype(float) @ on, maximize=True)[1]]
    doubt = (matched > 0.1) & (matched < 0.9)
    return {
        "screen": screen, "way": way, "seed": seed, "f1": mask_recovery(true, on)["f1"].item(),
        "undecided": ((on > 0.1) & (on < 0.9)).mean(), "probability": matched[doubt].mean(),
        "truly on": true[doubt].mean(), "bound": samslib.held_out_iwelbo(model, test, 50)["iwelbo"].mean(),
    }  # fmt: skip


def doubts(seeds: int) -> pd.DataFrame:
    """All that was tried on the three screens where the default leaves more than a tenth of the masks undecided.

    Parameters
    ----------
    seeds
        Seeds of each screen.

    Returns
    -------
    DataFrame
        A row a screen and way: means over seeds.
    """
    names = ("mid", "dense", "few cells")
    rows = _in_processes(undecided, [(screen, way, seed) for screen in names for way in TRIED for seed in range(seeds)])
    return rows.groupby(["screen", "way"], sort=False).mean().drop(columns="seed").reset_index()


def _settled(history: pd.DataFrame) -> pd.Series:
    """Validation losses from the best step on: those before the model settled do not count."""
    return history["val_loss"].loc[history.attrs["best_step"] :]


def sparsity(seeds: int, tuning: int = 2) -> pd.DataFrame:
    """Every way on every screen with a few seeds; then the default and the best prior of each screen with all.

    Parameters
    ----------
    seeds
        Seeds of what is compared.
    tuning
        Seeds with which the best prior is chosen, by F1 against the truth: tuning that no user could do.

    Returns
    -------
    DataFrame
        A row a screen and way: means over seeds, and the 95% interval of F1.
    """
    first = _in_processes(recovered, [(s, w, k) for s in SCREENS for w in WAYS for k in range(tuning)])
    others = first[first["way"] != DEFAULT].groupby(["screen", "way"])["f1"].mean()
    best = {screen: others[screen].idxmax() for screen in SCREENS}
    rest = [(s, w, k) for s in SCREENS for w in (DEFAULT, best[s]) for k in range(tuning, seeds)]
    rows = pd.concat([first, _in_processes(recovered, rest)])
    table = rows.groupby(["screen", "way"], sort=False).agg(["mean", "sem", "count"])
    f1 = table["f1"]
    half = f1["sem"] * student.ppf(0.975, f1["count"] - 1)
    means = table.xs("mean", axis=1, level=1).drop(columns="seed")
    means.insert(3, "low", f1["mean"] - half)
    means.insert(4, "high", f1["mean"] + half)
    return means.assign(seeds=f1["count"], tuned=[best[s] == w for s, w in means.index]).reset_index()


def default(seeds: int) -> pd.DataFrame:
    """The default model, direct effects and all, on the screens of `sparsity`.

    Parameters
    ----------
    seeds
        Seeds of each screen.

    Returns
    -------
    DataFrame
        A row a screen: means over seeds.
    """
    rows = _in_processes(recovered, [(screen, DIRECT, seed) for screen in SCREENS for seed in range(seeds)])
    return rows.groupby(["screen", "way"], sort=False).mean().drop(columns="seed").reset_index()


def _in_processes(function: Callable, arguments: Iterable[tuple[str, Any, int]]) -> pd.DataFrame:
    with ProcessPoolExecutor(2) as pool:
        made = [pool.submit(partial(function, *names, seed=seed)) for *names, seed in arguments]
        return pd.DataFrame([one.result() for one in made])


def training(steps: int = 1500, *, seed: int = 0) -> pd.DataFrame:
    """Bound against seconds on tapseq: the published settings for so many steps, and the defaults.

    Parameters
    ----------
    steps
        Steps of the published settings, a small part of the published 30,000.
    seed
        Seed of split, weights and training.

    Returns
    -------
    DataFrame
        A row a validation: settings, step, seconds, validation bound in nats a cell.
    """
    torch.set_num_threads(1)
    data = real("tapseq")
    train, val, _ = data.split(samslib.splits.random(seed=seed))
    summary, rows = data.summary(train), []
    for name, model, config in (
        ("published", samslib.SAMSVAE.paper(summary, seed=seed), FitConfig.paper(steps=steps)),
        ("defaults", samslib.SAMSVAE(summary, guides=False, direct=False, seed=seed), FitConfig()),
        ("defaults, guides and direct effects", samslib.SAMSVAE(summary, seed=seed), FitConfig()),
    ):
        history = samslib.fit(model, train, val, config)
        rows.append(history.reset_index()[["step", "seconds", "val_loss"]].assign(settings=name))
    table = pd.concat(rows)
    return table.assign(bound=-table.pop("val_loss"))


SETTINGS: dict[str, dict[str, Any]] = {  # of FitConfig
    DEFAULT: {},
    "sampled divergences": {"analytic_kl": False},
    "1 particle": {"particles": 1},
    "5 particles": {"particles": 5},
    "batches of 128": {"batch_size": 128},
    "importance-weighted, 5 particles": {"objective": "iwelbo", "particles": 5},
    "constant rates": {"decay": 0.0},
    "tables at the networks' rate": {"table_rate": 2e-3},
    "published rate for all": {"learning_rate": 3e-4, "table_rate": 3e-4, "decay": 0.0},
    "averaged weights": {},
    "averaged weights, constant rates": {"decay": 0.0},
}


def average(model: torch.nn.Module, states: list[dict[str, torch.Tensor]]) -> None:
    """Give a model the mean of these weights; what is no floating-point number is that of the last."""
    last = states[-1]
    means = {name: torch.stack([of[name] for of in states]).mean(0) for name in last if last[name].is_floating_point()}
    model.load_state_dict(last | means)


def trained(name: str, screen: str, *, seed: int) -> dict[str, Any]:
    """One fit of the default model with one setting changed, and its bound on cells that nothing was chosen by.

    Parameters
    ----------
    name, screen
        Names in `SETTINGS` and `SCREENS`.
    seed
        Seed of the screen, the weights and the training.

    Returns
    -------
    dict
        Names, seed, the held-out importance-weighted bound of test cells (50 particles) in nats a cell, and seconds.
    """
    torch.set_num_threads(1)
    adata, axes = simulated(screen, seed)
    data = PerturbationData.from_anndata(adata)
    train, val, test = data.split(samslib.splits.random(seed=seed))
    model = samslib.SAMSVAE(data.summary(train), latent=axes, direct=False, seed=seed)
    config = FitConfig(**{"batch_size": 512, **SETTINGS[name]}, steps=1500, seed=seed, progress=False)
    states: list[dict[str, torch.Tensor]] = []

    def keep(of: torch.nn.Module) -> dict[str, float]:
        states.append({name: value.clone() for name, value in of.state_dict().items()})
        return {}

    history = samslib.fit(model, train, val, config, monitor=keep)
    if name.startswith("averaged"):
        average(model, states[-len(states) // 4 :])  # of the last quarter of the validations, long after the turn
    bound = samslib.held_out_iwelbo(model, test, 50)["iwelbo"].mean()
    return {"setting": name, "seed": seed, "bound": bound, "seconds": history.attrs["seconds"]}


def settings(seeds: int) -> pd.DataFrame:
    """Every setting on the screen "mid", beside the default on the same seeds.

    Parameters
    ----------
    seeds
        Number of screens.

    Returns
    -------
    DataFrame
        A row a setting: mean bound, its difference from the default's and the 95% half width of that, and seconds.
    """
    rows = _in_processes(trained, [(name, "mid", seed) for seed in range(seeds) for name in SETTINGS])
    usual = rows[rows["setting"] == DEFAULT].set_index("seed")["bound"]
    rows["gain"] = rows["bound"] - rows["seed"].map(usual)
    table = rows.groupby("setting", sort=False)[["bound", "gain", "seconds"]].mean()
    table["half_width"] = rows.groupby("setting")["gain"].sem() * student.ppf(0.975, seeds - 1)
    return table.reset_index()


LEFT = 0.2  # of a gene's counts, where a perturbation knocks it down


def knocked_down(adata: anndata.AnnData, *, seed: int) -> np.ndarray:
    """Let each perturbation of a simulated screen knock one gene down, in place, by thinning its counts.

    Parameters
    ----------
    adata
        A screen of `simulate.perturb_seq`.
    seed
        Seed of the genes and of the thinning.

    Returns
    -------
    ndarray
        (T, G) 0/1 truth of the direct effects, in the order of uns["truth"]["perturbations"]; genes are drawn among the
        fifth with the most counts: the loss of a gene that is never seen could not be.
    """
    rng, names = np.random.default_rng(seed), list(adata.uns["truth"]["perturbations"])
    x = np.asarray(adata.X.todense()).astype(int)
    often = np.argsort(-x.sum(0))[: x.shape[1] // 5]
    genes = rng.choice(often, len(names))
    for name, gene in zip(names, genes, strict=True):
        cells = adata.obs["perturbation"].to_numpy() == name
        x[cells, gene] = rng.binomial(x[cells, gene], LEFT)
    adata.X = sp.csr_matrix(x.astype(np.float32))
    return np.eye(x.shape[1])[genes]


def both_kinds(way: str, screen: str, *, seed: int) -> dict[str, Any]:
    """One fit to a screen whose perturbations act on axes and on a gene each.

    Parameters
    ----------
    way
        "latent" or "latent and direct", the effects that the model has.
    screen
        A name in `SCREENS`.
    seed
        Seed of the screen, the weights and the training.

    Returns
    -------
    dict
        Names, seed, F1 of the masks of axes (matched) and of genes, genes on a perturbation, the correlation of the
        effects with those of held-out cells, the validation bound and seconds.
    """
    torch.set_num_threads(1)
    adata, axes = simulated(screen, seed)
    knocked = knocked_down(adata, seed=seed)
    data = PerturbationData.from_anndata(adata)
    order = [list(adata.uns["truth"]["perturbations"]).index(name) for name in data.perturbations]
    train, val, test = data.split(samslib.splits.random(seed=seed))
    model = samslib.SAMSVAE(data.summary(train), latent=axes, direct=way != "latent", seed=seed)
    history = samslib.fit(model, train, val, FitConfig(seed=seed, progress=False))
    row = {"way": way, "seed": seed, "bound": -_settled(history).min(), "seconds": history.attrs["seconds"]}
    on = model.mask_logits.detach().sigmoid().numpy()
    row["f1 of axes"] = mask_recovery(true_masks(adata, data), on)["f1"].item()
    if model.direct is not None:
        found = model.direct.logits.detach().numpy() > 0
        row["genes on"] = found.sum(1).mean()
        row["f1 of genes"] = 2 * (found & (knocked[order] > 0)).sum() / (found.sum() + len(order))
    observed = samslib.data_effects(test)
    effects = samslib.average_effects(model, data, list(observed.obs_names), seed=seed)
    row["correlation"] = np.corrcoef(np.ravel(effects.X), np.ravel(observed.X))[0, 1]
    return row


def direct(seeds: int) -> pd.DataFrame:
    """Both ways on the screen "mid", whose perturbations knock a gene down each too.

    Parameters
    ----------
    seeds
        Number of screens.

    Returns
    -------
    DataFrame
        A row a way and screen.
    """
    ways = ("latent", "latent and direct")
    return _in_processes(both_kinds, [(way, "mid", seed) for seed in range(seeds) for way in ways])


SIZES = {"latent": 30, "encoder_width": 128, "decoder_width": 128}  # of SAMSVAE by default
ALONE: dict[str, Any] = {"guides": False, "direct": False}
EFFECTS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "conditional VAE": (samslib.ConditionalVAE, SIZES),
    "CPA-VAE": (samslib.CPAVAE, SIZES),
    "CPA-VAE, direct effects": (samslib.CPAVAE, SIZES | {"direct": True}),
    "SAMS-VAE": (samslib.SAMSVAE, ALONE),
    "SAMS-VAE, mean field": (samslib.SAMSVAE, ALONE | {"posterior": "mean_field", "dense_start": 0.0}),
    "SAMS-VAE, correlated": (samslib.SAMSVAE, ALONE | {"posterior": "correlated", "dense_start": 0.0}),
    "SAMS-VAE, direct effects": (samslib.SAMSVAE, ALONE | {"direct": True}),
    "SAMS-VAE, guides": (samslib.SAMSVAE, {"direct": False}),
    "SAMS-VAE, guides and direct effects": (samslib.SAMSVAE, {"direct": True}),
}
LONGER: dict[str, tuple[type[Any], dict[str, Any]]] = {WEIGHTED: (samslib.SAMSVAE, {})}  # not in `effects`


def predicted(name: str, dataset: str, *, seed: int) -> dict[str, Any]:
    """One model's effects of a real screen, against held-out cells.

    Parameters
    ----------
    name
        A name in `EFFECTS` or `LONGER`.
    dataset
        A name of `samslib.datasets`.
    seed
        Seed of split, weights and training.

    Returns
    -------
    dict
        Names, seed, the pooled correlation with the effects of held-out cells, the validation bound, and seconds.
    """
    torch.set_num_threads(1)
    kind, options = (EFFECTS | LONGER)[name]
    data = real(dataset)
    split = samslib.splits.random(seed=seed)
    train, val, _ = data.split(split)
    model = kind(data.summary(train), **options, seed=seed)
    history = samslib.fit(model, train, val, FitConfig(seed=seed, progress=False, **TRAINED.get(name, {})))
    effects = samslib.average_effects(model, data, seed=seed)
    return {
        "model": name, "seed": seed, **_pooled({name: effects}, data, split, False).iloc[0],
        "bound": -_settled(history).min(), "seconds": history.attrs["seconds"],
    }  # fmt: skip


def real(dataset: str) -> PerturbationData:
    """A published screen by name, with the target of each guide where it says so."""
    arguments = samslib.datasets.DATASETS[dataset].arguments
    return PerturbationData.from_anndata(samslib.datasets.load(dataset), **arguments)


def _pooled(
    effects: dict[str, anndata.AnnData], data: PerturbationData, split: Callable, data_only: bool
) -> pd.DataFrame:
    table = samslib.score_table(effects, data, split, resamples=2, references=["held out"], data_only=data_only)
    pooled = table.query("perturbation == 'pooled' and score == 'pearson'")
    return pooled.set_index("model")[["value", "ceiling"]].rename(columns={"value": "correlation"})


def effects(seeds: int, dataset: str = "tapseq") -> pd.DataFrame:
    """All models of `EFFECTS` and the predictors that need no model, over so many splits of a real screen.

    Parameters
    ----------
    seeds
        Number of splits.
    dataset
        A name of `samslib.datasets`; without targets, models that differ by guides alone are left out.

    Returns
    -------
    DataFrame
        A row a model or predictor, and split.
    """
    data = real(dataset)
    names = [name for name in EFFECTS if data.targets or "guides" not in name]
    tables = [_in_processes(predicted, [(name, dataset, seed) for seed in range(seeds) for name in names])]
    for seed in range(seeds):
        split = samslib.splits.random(seed=seed)
        train, _, _ = data.split(split)
        alone = _pooled({"training cells": samslib.data_effects(train)}, data, split, True).iloc[1:]
        tables.append(alone.reset_index().assign(seed=seed))
    return pd.concat(tables)


def weighted(seeds: int) -> pd.DataFrame:
    """The default model trained by the importance-weighted bound: what `effects` and `sparsity` have by the ELBO.

    Parameters
    ----------
    seeds
        Number of splits of each real screen, and of each simulated one.

    Returns
    -------
    DataFrame
        A row a screen and seed: of real ones the columns of `effects`, of simulated ones those of `recovered`.
    """
    real_screens = [(WEIGHTED, dataset, seed) for dataset in ("tapseq", "norman-devel") for seed in range(seeds)]
    simulated = [(screen, WEIGHTED, seed) for screen in SCREENS for seed in range(seeds)]
    found = _in_processes(predicted, real_screens).drop(columns="model")
    found.insert(0, "screen", [dataset for _, dataset, _ in real_screens])
    return pd.concat([found, _in_processes(recovered, simulated).drop(columns="way")])


LARGE: dict[str, dict[str, int]] = {  # screens on which few axes might not do, with the axes they are made of
    "100 perturbations": {"singles": 100, "cells": 60, "controls": 500, "genes": 200, "latent": 20},
    "300 perturbations": {"singles": 300, "cells": 40, "controls": 1000, "genes": 300, "latent": 40},
}
TRIED_SIZES = {  # axes, and units of each network; 30 and 75 axes are the library's rule
    "300 perturbations": ((30, 128), (75, 128), (75, 256)),
    "100 perturbations": ((30, 128), (60, 128), (30, 256)),
}


def sized(screen: str, size: tuple[int, int], *, seed: int) -> dict[str, Any]:
    """The default model of such a size on a screen of many perturbations.

    Parameters
    ----------
    screen
        A name in `LARGE`.
    size
        Number of latent axes, and of units of encoder and decoder.
    seed
        Of the screen, split, weights and training.

    Returns
    -------
    dict
        Names, seed, the held-out bound, the pooled correlation with effects of held-out cells, and seconds.
    """
    torch.set_num_threads(1)
    data = PerturbationData.from_anndata(samslib.simulate.perturb_seq(pairs=0, **LARGE[screen], seed=seed))
    split = samslib.splits.random(seed=seed)
    train, val, test = data.split(split)
    axes, width = size
    model = samslib.SAMSVAE(data.summary(train), axes, encoder_width=width, decoder_width=width, seed=seed)
    history = samslib.fit(model, train, val, FitConfig(seed=seed, progress=False))
    effects = samslib.average_effects(model, data, seed=seed)
    return {
        "screen": screen, "axes": axes, "width": width, "seed": seed,
        "bound": samslib.held_out_iwelbo(model, test, 30, seed=seed)["iwelbo"].mean(),
        **_pooled({"model": effects}, data, split, False).iloc[0], "seconds": history.attrs["seconds"],
    }  # fmt: skip


def sizes(seeds: int) -> pd.DataFrame:
    """All sizes of `TRIED_SIZES` on so many screens of each kind.

    Parameters
    ----------
    seeds
        Number of screens.

    Returns
    -------
    DataFrame
        A row a screen, size and seed.
    """
    tried = [(screen, size) for screen, tried in TRIED_SIZES.items() for size in tried]
    return _in_processes(sized, [(screen, size, seed) for screen, size in tried for seed in range(seeds)])


OF_SEEDS: dict[str, Callable[[int], pd.DataFrame]] = {
    "sparsity": sparsity,
    "default": default,
    "undecided": doubts,
    "settings": settings,
    "direct": direct,
    "effects": effects,
    "norman": partial(effects, dataset="norman-devel"),
    "weighted": weighted,
    "sizes": sizes,
}


def main() -> None:
    """Read the command line, run what it names, and write and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*OF_SEEDS, "training"))
    parser.add_argument("--seeds", type=int, default=5, help="screens or splits, 3 or more")
    asked = parser.parse_args()
    if asked.seeds < 3:
        parser.error(f"--seeds is {asked.seeds}; give 3 or more.")
    start = time.perf_counter()
    table = OF_SEEDS[asked.what](asked.seeds) if asked.what in OF_SEEDS else training()
    parameters = {"seed": 0, "seeds": asked.seeds if asked.what != "training" else 1}
    path = write_results(f"beyond-{asked.what}", table, parameters, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
