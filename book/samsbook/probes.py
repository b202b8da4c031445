"""Do CPA's adversary and CRADLE-VAE's auxiliary term do their work? The probes' table (`make probes`).

A part does its work if a probe that is trained on z_basal tells the perturbation (CPA) or the quality flag (CRADLE-VAE)
of held-out cells less well with the part on than off. Each seed is a new simulated screen with known truth, and is
fitted with the part off and on from the same initial weights; differences are paired, with a 95 % t interval over
seeds. What the part costs stands beside it: the held-out bound, and the error of the effects of clean cells.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import samslib
from samsbook.results import root, write_results
from samslib import FitConfig, PerturbationData, Schedule, fit, latents

CPA: dict[str, Any] = {"latent": 6, "encoder_width": 32, "encoder_layers": 1, "decoder_width": 32, "decoder_layers": 1}
CRADLE: dict[str, Any] = {
    "latent": 6, "encoder_width": 32, "decoder_width": 32, "decoder_layers": 2, "embedding_width": 16,
    "embedding_layers": 1, "mask_prior": 0.1,
}  # fmt: skip
LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
FOREST = RandomForestClassifier(50, min_samples_leaf=5, random_state=0)


def plain_screen(seed: int, cells: int, genes: int = 15) -> PerturbationData:
    """Poisson counts of control, A, B and C, each of which moves every gene's log rate by N(0, 0.5).

    Parameters
    ----------
    seed
        Seed of the simulation.
    cells, genes
        Numbers of cells and genes; the four conditions take turns.

    Returns
    -------
    PerturbationData
        The simulated cells.
    """
    rng = np.random.default_rng(seed)
    kind = np.arange(cells) % 4
    rate = rng.normal(1.5, 0.3, genes) + 0.5 * rng.normal(size=(cells, 2)) @ rng.normal(size=(2, genes))
    for t in (1, 2, 3):
        rate[kind == t] += rng.normal(0, 0.5, genes)
    return PerturbationData.from_anndata(_adata(rng.poisson(np.exp(rate)), kind))


def screen_with_artifact(
    seed: int, failing: tuple[float, ...], cells: int = 1500, genes: int = 40
) -> tuple[PerturbationData, np.ndarray]:
    """Poisson counts of control, A, B and C; failing cells, more or fewer by perturbation, share one artifact.

    Parameters
    ----------
    seed
        Seed of the simulation.
    failing
        Share of failing cells in control, A, B and C.
    cells, genes
        Numbers of cells and genes; the four conditions take turns.

    Returns
    -------
    tuple
        The data, with the quality flag "fails"; and the true effects (3, G) of clean cells at 600 counts a cell, log2
        fold changes, from 4,000 draws.
    """
    rng = np.random.default_rng(seed)
    loadings, base = rng.normal(0, 0.4, (3, genes)), rng.normal(0, 0.5, genes)
    shift, artifact = np.zeros((4, genes)), np.zeros(genes)
    for t in (1, 2, 3):
        shift[t, rng.choice(genes, 6, replace=False)] = rng.choice([-1, 1], 6)
    artifact[rng.choice(genes, 12, replace=False)] = 1.2

    def draw(kind: np.ndarray, fails: np.ndarray, depth: np.ndarray) -> np.ndarray:
        z = rng.normal(size=(len(kind), 3))
        share = np.exp(base + z @ loadings + shift[kind] + np.outer(fails, artifact))
        return rng.poisson(depth[:, None] * share / share.sum(1, keepdims=True)).astype(np.float32)

    kind = np.arange(cells) % 4
    fails = rng.random(cells) < np.array(failing)[kind]
    adata = _adata(draw(kind, fails, rng.lognormal(np.log(600), 0.2, cells)), kind, fails=fails.astype(int))
    seen = [draw(np.full(4000, t), np.zeros(4000), np.full(4000, 600.0)) for t in range(4)]
    read = [np.log2(1 + 1e4 * x / x.sum(1, keepdims=True)).mean(0) for x in seen]
    return PerturbationData.from_anndata(adata, quality="fails"), np.array(read[1:]) - read[0]


def _adata(x: np.ndarray, kind: np.ndarray, **obs: np.ndarray) -> AnnData:
    names = np.array(["control", "A", "B", "C"])[kind]
    return AnnData(
        x.astype(np.float32), obs=pd.DataFrame({"perturbation": names} | obs, [f"c{i}" for i in range(len(kind))])
    )


def perturbation_probe(seed: int, adversary_weight: float, held_out: int = 1000) -> dict[str, float]:
    """CPA on 400 cells; the probe learns on the same cells and tells control, A, B and C of others.

    Parameters
    ----------
    seed
        Seed of the screen, the weights and the training.
    adversary_weight
        Weight of CPA's adversary; 0 is off.
    held_out
        Number of cells that the probe is tested on.

    Returns
    -------
    dict
        Name of the measure -> value.
    """
    data = plain_screen(seed, 400 + held_out)
    train, test = data[:400], data[400:]
    torch.manual_seed(seed)
    model = samslib.CPA(train.summary(), adversary_weight=adversary_weight, adversary_layers=2, **CPA)
    config = FitConfig.paper(
        steps=300, critic=Schedule(pretrain=60, warm_up=60), learning_rate=5e-3, batch_size=200, particles=1, seed=seed,
        progress=False, device="cpu",
    )  # fmt: skip
    fit(model, train, None, config)
    z = [latents(model, part, particles=1)["z_basal"] for part in (train, test)]
    probe = LOGISTIC.fit(z[0], train.labels)
    bound = samslib.held_out_iwelbo(model, test, particles=1)["iwelbo"].mean()
    return {"accuracy of the perturbation": probe.score(z[1], test.labels), "held-out bound, nats": bound}


def trained(
    kind: Any, train: PerturbationData, seed: int = 0, steps: int = 250, particles: int = 2, **options: Any
) -> Any:
    """A small model of this kind, trained on the CPU.

    Parameters
    ----------
    kind
        Class of the model.
    train
        Training cells.
    seed
        Seed of the weights and the training.
    steps
        Number of training steps.
    particles
        Number of draws of the latents a step.
    options
        Further options of the model.

    Returns
    -------
    Model
        The trained model.
    """
    torch.manual_seed(seed)
    model = kind(train.summary(), **CRADLE, **options)
    config = FitConfig.paper(
        steps=steps, seed=seed, particles=particles, batch_size=128, learning_rate=5e-3, progress=False, device="cpu"
    )
    fit(model, train, None, config)
    return model


def flag_auc(model: samslib.CRADLEVAE, test: PerturbationData, fails: np.ndarray, probe: Any = LOGISTIC) -> float:
    """Area under the ROC curve with which a probe tells which held-out cells fail, by five-fold cross-validation.

    Parameters
    ----------
    model
        A trained CRADLE-VAE.
    test
        Held-out cells, n of them.
    fails
        (n,) which of them fail.
    probe
        The classifier of scikit-learn that reads z_basal. By default logistic regression.

    Returns
    -------
    float
        Mean area over the folds; one half is chance.
    """
    return cross_val_score(probe, latents(model, test)["z_basal"], fails, cv=5, scoring="roc_auc").mean()


def flag_probe(seed: int, auxiliary_weight: float, as_published: bool = False) -> dict[str, float]:
    """CRADLE-VAE on 1,500 cells, of which three in ten fail in every treatment; 1,500 other cells are probed.

    Parameters
    ----------
    seed
        Seed of the screen, the weights and the training.
    auxiliary_weight
        Weight of the auxiliary term; 0 is off.
    as_published
        Twins and model as the published code has them.

    Returns
    -------
    dict
        Name of the measure -> value.
    """
    data, truth = screen_with_artifact(seed, (0.3,) * 4, cells=3000)
    train, test = samslib.quality.with_twins(data[:1500], as_published=as_published), data[1500:]
    model = trained(samslib.CRADLEVAE, train, seed, 400, auxiliary_weight=auxiliary_weight, as_published=as_published)
    fails = test.qc[:, 0] != 0
    effects = samslib.average_effects(model, test, ["A", "B", "C"], particles=500, library=600.0).X
    return {
        "AUC of the flag": flag_auc(model, test, fails),
        "AUC of the flag, random forest": flag_auc(model, test, fails, FOREST),
        "AUC of the flag, all encoded as passing": flag_auc(model, replace(test, qc=0 * test.qc), fails),
        "error of clean effects, RMSE": float(np.sqrt(np.square(effects - truth).mean())),
        "held-out bound, nats": samslib.held_out_iwelbo(model, test[:500], particles=50)["iwelbo"].mean(),
    }


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % t interval.

    Parameters
    ----------
    differences
        Paired differences, 2 or more.

    Returns
    -------
    tuple
        Mean, lower and upper end.
    """
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return float(np.mean(differences)), float(np.mean(differences) - half), float(np.mean(differences) + half)


def compare(model: str, part: str, measure: Callable[..., dict[str, float]], weight: float, seeds: int) -> pd.DataFrame:
    """Measures with a part of a model off and on, and the paired difference on - off.

    Parameters
    ----------
    model, part
        Names for the table.
    measure
        From a seed and the part's weight to values by name.
    weight
        Weight of the part where it is on.
    seeds
        Number of seeds, 2 or more.

    Returns
    -------
    DataFrame
        A row a measure: means "off" and "on", "difference" with its 95 % t interval "low" and "high", and "verdict".
    """
    off, on = (pd.DataFrame([measure(seed, w) for seed in range(seeds)]) for w in (0.0, weight))
    rows = []
    for name in off:
        mean, low, high = interval(list(on[name] - off[name]))
        verdict = "lower with the part on" if high < 0 else "higher with the part on" if low > 0 else "not settled"
        numbers = {"off": off[name].mean(), "on": on[name].mean(), "difference": mean, "low": low, "high": high}
        rows.append({"model": model, "part": part, "measure": name, "seeds": seeds} | numbers | {"verdict": verdict})
    return pd.DataFrame(rows)


def main() -> None:
    """Read the command line, run all comparisons, and write and print the probes' table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="simulated screens for each row, 2 or more")
    seeds = parser.parse_args().seeds
    if seeds < 2:
        parser.error(f"--seeds is {seeds}; an interval needs 2 or more.")
    torch.set_num_threads(1)
    published = partial(flag_probe, as_published=True)
    start = time.perf_counter()
    table = pd.concat([
        compare("CPA", "adversary, weight 1", perturbation_probe, 1.0, seeds),
        compare("CPA", "adversary, weight 20", perturbation_probe, 20.0, seeds),
        compare("CRADLE-VAE", "auxiliary term, weight 1", flag_probe, 1.0, seeds),
        compare("CRADLE-VAE", "auxiliary term as published, weight 0.1", published, 0.1, seeds),
    ])  # fmt: skip
    path = write_results("probes", table, {"seed": 0, "seeds": seeds}, seconds=time.perf_counter() - start)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"Written to {path.relative_to(root())}.")


if __name__ == "__main__":
    main()
