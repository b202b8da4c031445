from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData
from conftest import Echo, ignored, make_data, make_model
from scipy.stats import beta, kstest

import samslib
from samslib.evaluate import checks
from samslib.evaluate.checks import calibration, predictive_check
from samslib.evaluate.streams import evaluating
from samslib.evaluate.tables import perturbseq
from samslib.trace import Trace


@pytest.fixture(scope="module")
def world():
    """A SAMS-VAE with known parameters and 60 perturbations of 24 cells, 60 controls: the frame of its draws."""
    rng = np.random.default_rng(0)
    names = [f"P{i:02d}" for i in range(60)]
    labels = np.repeat(["control", *names], [60] + [24] * 60)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))])
    data = samslib.PerturbationData.from_anndata(AnnData(rng.poisson(5, (len(labels), 10)).astype(np.float32), obs=obs))
    torch.manual_seed(0)
    model = samslib.SAMSVAE(data.summary(), latent=3, decoder_width=8, posterior="mean_field", mask_initial_logit=0.5)
    with torch.no_grad():
        model.decoder.log_concentration += 0.7
        model.embedding.loc.normal_(0, 5)
    return model, data


def drawn(model, data, seed: int):
    """The same cells with values drawn from the model, shared latents from its posterior, own ones from the prior."""
    with evaluating(model, seed):
        t = Trace(1)
        model.infer_shared(t)
        x = model.generate(Trace(1, given=t.values), data.batch().condition).sample()[0]
    return replace(data, x=sp.csr_matrix(x.numpy()))


def test_p_values_of_a_true_model_are_uniform(world):
    """Three summaries of 60 independent perturbations, each tested twice at 0.001: a seed fails once in 170."""
    model, data = world
    table = predictive_check(
        model, drawn(model, data, 1), ["variance", "zero_fraction", "correlation"], {"pair": ["0", "1"]}, replicates=150
    )
    for summary, group in table.groupby("summary"):
        assert kstest(group["p_above"], "uniform").pvalue > 0.001, summary
    assert (calibration(table)["p_value"] > 0.001).all()
    np.testing.assert_allclose(table["p_above"] + table["p_below"], 1)


def test_p_values_of_an_effect_are_uniform_over_data_sets(world):
    """An effect shares its controls with others, so one from each of 40 data sets. A seed fails once in 1,000."""
    model, data = world
    keep = np.flatnonzero(np.isin(data.labels, ["control", "P03"]))
    p = [
        predictive_check(model, drawn(model, data[keep], s), ["effect"], ["2"], replicates=99, resamples=2, seed=s)[
            "p_above"
        ].item()
        for s in range(40)
    ]
    assert kstest(p, "uniform").pvalue > 0.001 and len(set(p)) > 20


def test_a_model_with_a_wrong_concentration_is_caught_by_the_variance(world):
    model, data = world
    cells = drawn(model, data, 1)
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.decoder.log_concentration += 3  # nearly Poisson: too little spread
    found = calibration(predictive_check(wrong, cells, ["variance"], replicates=100)).loc[0]
    assert found["p_value"] < 1e-6 and found["low"] > 0.2


def test_a_model_without_effects_is_caught_by_the_effect(world):
    model, data = world
    cells = drawn(model, data, 1)
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        wrong.mask_logits.fill_(-30)
    genes = list(data.genes[:3])
    right, broken = (calibration(predictive_check(m, cells, ["effect"], genes, replicates=100)) for m in (model, wrong))
    assert (broken["rejected"] > right["rejected"] + 0.15).all()


def test_summaries_are_what_numpy_says():
    data = make_data(60)
    torch.manual_seed(0)
    model = samslib.CPAVAE(data.summary(), latent=3, decoder_width=8)
    sets = {"three": ["gene0", "gene4", "gene7"]}
    table = predictive_check(model, data, list(checks.SUMMARIES), sets, ["A+B"], replicates=5, resamples=400)
    y = perturbseq(torch.from_numpy(data.x.toarray()).double()).numpy()[:, [0, 4, 7]]
    treated, control = (y[np.asarray(data.labels) == name] for name in ("A+B", "control"))
    r = np.corrcoef(treated.T)[np.triu_indices(3, 1)].mean()
    told = {
        "effect": (treated.mean(0) - control.mean(0)).mean(),
        "variance": treated.var(0, ddof=1).mean(),
        "zero_fraction": (treated == 0).mean(),
        "correlation": r,
    }
    got = table.set_index("summary")
    for name, value in told.items():
        assert got.loc[name, "observed"] == pytest.approx(value, abs=1e-5)
    mean = treated.mean(1).var() / len(treated) + control.mean(1).var() / len(control)
    # 400 resamples give a standard error within 3.5% of itself (sd); five of these and float32
    assert got.loc["effect", "standard_error"] == pytest.approx(mean**0.5, rel=0.18)
    assert (got["cells"] == 12).all()


def test_ties_count_half():
    observed, replicated = np.array([1.0, 5.0]), np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    labels = pd.DataFrame({"perturbation": ["A", "B"], "summary": "s", "genes": "g"})
    table = checks._compare(observed, replicated, replicated, labels)
    np.testing.assert_allclose(table["p_above"], [(1 + 3 / 2) / 4, 0.5 / 4])
    np.testing.assert_allclose(table["p_two_sided"], [0.75, 0.25])


def test_replicates_are_summarised_as_numpy_and_calibrated_as_scipy_does():
    rng = np.random.default_rng(0)
    resampled, replicated = rng.gamma(1, size=(7, 1)), rng.gamma(1, size=(9, 1))
    labels = pd.DataFrame({"perturbation": ["A"], "summary": "s", "genes": "g"})
    row = checks._compare(np.ones(1), resampled, replicated, labels).iloc[0]
    low, high = np.quantile(replicated, [0.025, 0.975])
    assert row["standard_error"] == pytest.approx(resampled.std(ddof=1))
    assert row[["replicated_mean", "replicated_sd", "replicated_low", "replicated_high"]].tolist() == pytest.approx(
        [replicated.mean(), replicated.std(ddof=1), low, high]
    )
    table = pd.DataFrame({"summary": "s", "genes": "g", "p_above": [0.1, 0.2, 0.3, 0.6, 0.9]})
    found = calibration(table, "p_above", level=0.2).iloc[0]
    assert (found["perturbations"], found["rejected"]) == (5, 2 / 5)
    exact = [beta.ppf(0.025, 2, 4), beta.ppf(0.975, 3, 3)]  # Clopper and Pearson
    assert found[["low", "high"]].tolist() == pytest.approx(exact)
    assert found["ks"] == kstest(table["p_above"], "uniform").statistic


def test_every_model_can_be_checked(model, data):
    def largest(treated, control):
        return treated.amax((1, 2)) - control.amax((1, 2))

    table = predictive_check(model, data, ["effect", largest], replicates=3, resamples=2)
    assert list(table["summary"].unique()) == ["effect", "largest"] and table["perturbation"].nunique() == 4
    again = predictive_check(model, data, ["effect", largest], replicates=3, resamples=2)
    pd.testing.assert_frame_equal(table, again)


def test_blocks_hold_little_at_once_and_change_no_law(monkeypatch, world):
    """Means of 300 replicates, drawn one at a time and in blocks, within five standard errors of each other."""
    model, data = world
    keep = np.flatnonzero(np.isin(data.labels, ["control", "P03", "P04"]))
    run = lambda: predictive_check(model, data[keep], ["variance"], replicates=300, resamples=2)  # noqa: E731
    whole = run()
    sizes: list[int] = []
    real = model.generate
    monkeypatch.setattr("samslib.evaluate.streams.ELEMENTS", 4 * (60 + 24) * 10)
    monkeypatch.setattr(type(model), "generate", lambda self, t, c: sizes.append(t.particles) or real(t, c))
    parts = run()
    assert max(sizes) == 4 and sum(sizes) == 3 * 300
    error = np.hypot(whole["replicated_sd"], parts["replicated_sd"]) / 300**0.5
    assert ((whole["replicated_mean"] - parts["replicated_mean"]).abs() < 5 * error).all()


@pytest.mark.filterwarnings("ignore:Echo ignores")
def test_replicates_are_of_the_observed_cells_own_conditions():
    """Of a model whose cells are what is known of them: every replicate is the observed cell."""
    data = make_data(covariates=True, quality=True)
    known = [data.library[:, None], data.dose.toarray(), data.covariate, data.qc, np.zeros((len(data), 4))]
    cells = replace(data, x=sp.csr_matrix(np.hstack(known)), counts=False)
    table = predictive_check(Echo(cells.summary()), cells, ["effect", "variance"], list(data.genes[:8]), replicates=2)
    np.testing.assert_allclose(table["replicated_mean"], table["observed"], atol=1e-4)
    assert table.groupby("genes")["observed"].agg(lambda v: abs(v).max() > 0.1).drop("gene6").all()  # plate is one


def test_no_argument_is_ignored():
    data = make_data(60)
    base = {"model": make_model("sams_vae", data.summary()), "data": data, "replicates": 3, "resamples": 3}
    options = {"summaries": ["variance"], "genes": ["gene1"], "perturbations": ["A"], "readout": "mean"}
    assert not ignored(predictive_check, base, **options, replicates=4, resamples=4, seed=1)
    assert not ignored(calibration, {"table": predictive_check(**base)}, p="p_above", level=0.6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes": ["gene99"]}, "'gene99' is no gene of the data"),
        ({"genes": "gene0"}, r"give a list of genes, such as \['gene0'\]"),
        ({"genes": {"none": []}}, "'none' is empty"),
        ({"perturbations": ["D"]}, "'D' in 'D' is not one of data.perturbations"),
        ({"perturbations": ["A+C"]}, "No treated cell is labelled 'A[+]C'"),
        ({"perturbations": ["control"]}, "No treated cell is labelled 'control'"),
        ({"summaries": ["median"]}, "summary is 'median'; choose one of"),
        ({"summaries": ["correlation"], "genes": ["gene0"]}, "two genes or more"),
        ({"summaries": [lambda t, c: t.mean((1, 2)) * float("nan")]}, "not finite in 'A'"),
        ({"readout": "log"}, "readout is 'log'"),
        ({"replicates": 1}, "replicates is 1"),
    ],
)
def test_bad_input_is_named(options, message):
    data = make_data(20)
    model = samslib.CPAVAE(data.summary(), latent=3, decoder_width=8)
    with pytest.raises(ValueError, match=message):
        predictive_check(model, data, **{"replicates": 2, "resamples": 2} | options)


def test_bad_cells_and_tables_are_named():
    data = make_data(20)
    model = samslib.CPAVAE(data.summary(), latent=3, decoder_width=8)
    with pytest.raises(ValueError, match="no control cells"):
        predictive_check(model, data[np.asarray(data.labels) != "control"])
    with pytest.raises(ValueError, match="'A' has 1 cell"):
        predictive_check(model, data[[0, 1, 2, 4, 5, 7, 9]])
    with pytest.raises(ValueError, match="no column 'genes'"):
        calibration(pd.DataFrame({"p_two_sided": [0.1]}))
    with pytest.raises(ValueError, match="no probabilities"):
        calibration(pd.DataFrame({"p_two_sided": [np.nan], "summary": "s", "genes": "g"}))
