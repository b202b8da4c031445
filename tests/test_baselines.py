"""The plain baselines: closed forms against numpy, and who is better on pairs never seen."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_data

import samslib
from samslib import BASELINES, FitConfig
from samslib.cells import Condition
from samslib.trace import Trace

CLOSED = ("control_mean", "perturbation_mean", "additive", "linear")


def log_shares(data, pseudocount=0.5):
    """(labels, log shares, cells) of each condition by numpy, from dense counts."""
    names, x = sorted(set(data.labels)), data.x.toarray().astype(float)
    sums = np.stack([x[data.labels == name].sum(0) for name in names]) + pseudocount
    return names, np.log(sums / sums.sum(1, keepdims=True)), np.array([(data.labels == n).sum() for n in names])


def predicted(model, data, names, library=1e6):
    """(names, G) mean share of counts under each condition."""
    dose = torch.cat([data.dose_of(name) for name in names])
    nothing = dose.new_zeros(len(dose), 0)
    c = Condition(dose, dose.new_full((len(dose), 1), library), nothing, nothing)
    return model.generate(Trace(1), c).mean[0].detach().numpy() / library


def softmax(values):
    return np.exp(values) / np.exp(values).sum(-1, keepdims=True)


def test_closed_forms_are_those_of_numpy():
    data = make_data(cells=83)
    names, log_share, cells = log_shares(data)
    log_share = dict(zip(names, log_share, strict=True))
    fold = {name: value - log_share["control"] for name, value in log_share.items()}
    dose = np.array([[g in name.split("+") for g in "ABC"] for name in names]).astype(float)
    ridge = np.linalg.solve(
        (dose.T * cells) @ dose + 7 * np.eye(3), (dose.T * cells) @ np.stack([fold[n] for n in names])
    )
    treated = np.log(np.mean([np.exp(v) for n, v in log_share.items() if n != "control"], 0))
    expected = {
        "control_mean": [log_share["control"]] * 5,
        "perturbation_mean": [log_share["control"], treated, treated, treated, treated],
        "additive": [log_share["control"] + fold[a] + fold[b] for a, b in zip(*PAIRS, strict=True)],
        "linear": list(
            log_share["control"] + np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1]]) @ ridge
        ),
    }
    asked = ["control", "A", "C", "A+B", "A+C"]
    for name, values in expected.items():
        model = BASELINES[name](data.summary(pseudobulk=True), **{"ridge": 7.0} if name == "linear" else {})
        np.testing.assert_allclose(predicted(model, data, asked), softmax(np.stack(values)), rtol=1e-5, err_msg=name)


PAIRS = (["control", "A", "C", "A", "A"], ["control", "control", "control", "B", "C"])


def multiplicative():
    """Cells without noise whose genes are multiplied by each perturbation, once a unit of dose; pairs by both."""
    control = np.array([64, 32, 16, 16], dtype=float) * 64
    factor = {"A": np.array([2, 1, 1, 0.5]), "B": np.array([1, 4, 0.25, 1])}
    cells = [("control", 1), ("A", 1), ("B", 2), ("A+B", 1)]
    x = [control * np.prod([factor[g] ** n for g in name.split("+") if g in factor], axis=0) for name, n in cells]
    obs = pd.DataFrame(cells, columns=["perturbation", "amount"], index=["c1", "c2", "c3", "c4"])
    return samslib.PerturbationData.from_anndata(anndata.AnnData(np.stack(x), obs=obs), dose="amount")


@pytest.mark.parametrize("name", ["additive", "linear"])
def test_additive_and_weakly_penalised_linear_are_exact_where_effects_multiply(name):
    data = multiplicative()
    train = data[data.labels != "A+B"]
    options = {"pseudocount": 1e-9} | ({"ridge": 1e-6} if name == "linear" else {})
    model = BASELINES[name](data.summary(train, pseudobulk=True), **options)
    x = data[data.labels == "A+B"].x.toarray()
    np.testing.assert_allclose(predicted(model, data, ["A+B"]), x / x.sum(), rtol=1e-5)
    assert abs(predicted(model, data, ["A"]) - x / x.sum()).max() > 0.1
    assert (model.summary.pseudobulk.concentration == 100).all()  # nothing is left to explain
    nothing = torch.zeros(1, 0)
    c = Condition(data.dose_of("A"), torch.zeros(1, 1), nothing, nothing)
    assert (model.generate(Trace(1), c).mean == torch.tensor(1e-4)).all()  # a mean of 0 has no likelihood


def test_ridge_pulls_effects_to_zero():
    data = make_data()
    summary = data.summary(pseudobulk=True)
    control, far = (predicted(BASELINES["linear"](summary, ridge=r), data, ["A"]) for r in (1e9, 1e-3))
    np.testing.assert_allclose(control, predicted(BASELINES["control_mean"](summary), data, ["A"]), rtol=1e-4)
    assert abs(far - control).max() > 0.1


def test_concentration_by_moments_finds_that_of_the_law():
    """2,000 cells in two conditions of opposite shares, all of 100 genes at 2.0. Over 20 seeds the mean over genes was
    2.07 with a standard deviation of 0.015, so 2.0 +- 0.2 ends eight of them away."""
    rng = np.random.default_rng(0)
    labels = np.where(np.arange(2000) % 2, "control", "A")
    up = np.linspace(1, 5, 100)
    mean = rng.lognormal(7, 0.5, (2000, 1)) * np.where((labels == "A")[:, None], up, up[::-1]) / 300
    x = rng.poisson(mean * rng.gamma(2.0, 1 / 2.0, mean.shape)).astype(np.float32)
    cells = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(2000)])
    bulk = samslib.PerturbationData.from_anndata(anndata.AnnData(x, obs=cells)).summary(pseudobulk=True).pseudobulk
    assert abs(bulk.concentration.mean() - 2.0) < 0.2
    share = np.stack([x[labels == n].sum(0) / x[labels == n].sum() for n in labels[:2]])[np.arange(2000) % 2]
    m = x.sum(1, keepdims=True, dtype=float) * share
    moments = (m**2).sum(0) / ((x - m) ** 2 - m).sum(0)
    np.testing.assert_allclose(bulk.concentration.numpy(), moments, rtol=1e-3)
    assert bulk.cells.tolist() == [1000, 1000] and bulk.dose.tolist() == [[1], [0]]
    np.testing.assert_allclose(bulk.counts[0].numpy(), x[labels == "A"].sum(0), rtol=1e-6)


@pytest.fixture(scope="module")
def pairs():
    data = samslib.PerturbationData.from_anndata(samslib.datasets.load("sams-pairs"))
    train, val, _ = data.split(samslib.splits.combinations(0.0, seed=0, test=1.0))
    names = [name for name in data.conditions().query("perturbations == 2").index]
    share = lambda name: np.asarray(data.x[data.labels == name].sum(0)).ravel()  # noqa: E731
    log = {name: np.log2(1 + 1e4 * share(name) / share(name).sum()) for name in (*names, data.control)}
    seen = np.stack([log[name] - log[data.control] for name in names])
    table = {}
    summary = data.summary(train, pseudobulk=True)
    config = FitConfig(steps=60, validate_every=30, learning_rate=5e-3, particles=1, progress=False)
    for name, kind in BASELINES.items():
        torch.manual_seed(0)
        model = kind(summary)
        samslib.fit(model, train, val, config)
        effects = samslib.average_effects(model, data, names, particles=300)
        table[name] = {
            "correlation": np.corrcoef(np.ravel(effects.X), seen.ravel())[0, 1],
            "iwelbo": samslib.held_out_iwelbo(model, data[np.isin(data.labels, names)], particles=1)["iwelbo"].mean(),
        }
    return pd.DataFrame(table).T


def test_additive_predicts_pairs_never_seen(pairs):
    """15 pairs of which no cell was trained on, 150 genes: one loop makes the table of all baselines."""
    r, bound = pairs["correlation"], pairs["iwelbo"]
    assert r["additive"] > r["perturbation_mean"] + 0.2 and r["additive"] > r["control_mean"] + 0.2
    assert abs(r["control_mean"]) < 0.1
    assert bound["additive"] > bound["perturbation_mean"] and bound["additive"] > bound["control_mean"]
    assert r[["linear", "latent_additive", "decoder_only"]].min() > r["perturbation_mean"]


@pytest.mark.parametrize("name", CLOSED)
def test_fit_moves_only_the_concentrations_of_a_closed_form(name):
    data = make_data()
    model = BASELINES[name](data.summary(pseudobulk=True))
    before, spread = predicted(model, data, ["A+B"]), model.log_concentration.detach().clone()
    history = samslib.fit(model, data, None, FitConfig(steps=40, learning_rate=0.1, progress=False))
    np.testing.assert_array_equal(predicted(model, data, ["A+B"]), before)
    assert (model.log_concentration != spread).any() and history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_errors_say_what_is_missing():
    data = make_data()
    summary = data.summary(pseudobulk=True)
    for name in CLOSED:
        with pytest.raises(ValueError, match="function of pseudobulk.*pseudobulk=True"):
            BASELINES[name](data.summary())
        with pytest.raises(ValueError, match="pseudocount.* 0.*above 0"):
            BASELINES[name](summary, pseudocount=0.0)
        for train in (data[data.labels == "control"], data[data.labels != "control"]):
            with pytest.raises(ValueError, match="Control and perturbed cells"):
                BASELINES[name](data.summary(train, pseudobulk=True))
    with pytest.raises(ValueError, match="ridge.*above 0"):
        BASELINES["linear"](summary, ridge=0.0)
    for name in ("latent_additive", "decoder_only"):
        with pytest.raises(ValueError, match="likelihood is 'gauss'.*negative_binomial"):
            BASELINES[name](summary, likelihood="gauss")
    with pytest.raises(ValueError, match="Real values have no pseudobulk"):
        dataclasses.replace(data, counts=False).summary(pseudobulk=True)
    with pytest.warns(UserWarning, match="1 perturbation.*'B', were never trained on alone"):
        BASELINES["additive"](data.summary(data[data.labels != "B"], pseudobulk=True))


def test_pseudobulk_survives_saving(tmp_path):
    summary = make_data().summary(pseudobulk=True)
    again = samslib.load(samslib.save(BASELINES["linear"](summary, ridge=2.0), tmp_path / "m")).summary.pseudobulk
    assert all(torch.equal(v, getattr(again, k)) for k, v in vars(summary.pseudobulk).items())
