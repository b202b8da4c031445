"""Control variates: the same effects, with less of the simulation's noise and honest errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LinearGaussian, linear_data, make_data, make_model
from samsbook import noise

import samslib
from samslib.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from samslib.evaluate import streams
from samslib.evaluate.tables import READOUTS
from samslib.evaluate.variates import Adjusted, Drawn, seen

LIKELIHOODS = ["negative_binomial", "poisson", "zero_inflated_negative_binomial"]
REPEATS, FEW = 200, 60


@pytest.fixture(scope="module", params=LIKELIHOODS)
def world(request):
    """A model with strong effects, its effects by a million plain particles, and 200 repeats of 60 particles."""
    data = make_data()
    model = make_model("sams_vae mean_field", data.summary(), likelihood=request.param)
    with torch.no_grad():
        model.embedding.loc.normal_(0, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "PARTICLES", 10_000)
        plain = samslib.average_effects(model, data, ["A", "A+B"], 1_000_000, control_variates=False, seed=1)
        patch.setattr(streams, "PARTICLES", FEW)
        runs = [samslib.average_effects(model, data, ["A", "A+B"], FEW, seed=s) for s in range(REPEATS)]
    return plain, runs


def test_effects_are_unbiased_against_a_million_plain_particles(world):
    """24 differences of effects and 12 of control means, each Normal: one beyond 4.5 standard errors has a chance below
    3e-4. At 60 particles coefficients are poor, and a bias of the order 1 / particles would be at its largest."""
    plain, runs = world
    found = np.stack([run.X for run in runs])
    error = np.hypot(found.std(0, ddof=1) / np.sqrt(REPEATS), plain.layers["standard_error"])
    assert abs((found.mean(0) - plain.X) / error).max() < 4.5
    assert error.mean() < 0.03 < abs(plain.X).mean()
    control = np.stack([run.var["control"] for run in runs])
    error = np.sqrt(control.var(0, ddof=1) / REPEATS + plain.var["control_variance"].to_numpy() / 1_000_000)
    assert abs((control.mean(0) - plain.var["control"].to_numpy()) / error).max() < 4.5


def test_standard_errors_cover_the_truth(world):
    """Twice the error covers the truth in 95.4% of Normal estimates (the truth's own error counted); with 200 repeats
    the share of one gene has a standard deviation of 1.5%, and genes are far from all alike: 4% is more than three."""
    plain, runs = world
    z = np.stack(
        [(run.X - plain.X) / np.hypot(run.layers["standard_error"], plain.layers["standard_error"]) for run in runs]
    )
    assert abs((abs(z) < 2).mean() - 0.954) < 0.04
    ratio = np.stack([run.layers["standard_error"] ** 2 for run in runs]).mean(0) / np.stack(
        [run.X for run in runs]
    ).var(0)
    assert 0.85 < ratio.mean() < 1.15


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_tenth_of_the_variance_is_left_at_200_counts(likelihood):
    """Measured over 40 repeats, whose variances have standard deviations of 23% a gene and far less over 96."""
    data = make_data(genes=48)
    model = make_model("sams_vae mean_field", data.summary(), likelihood=likelihood)
    depth = np.median(data.library)
    ask = lambda s, **how: samslib.average_effects(model, data, ["A", "A+B"], 250, seed=s, **how).X  # noqa: E731
    plain, adjusted = (
        np.stack([ask(s, control_variates=on) for s in range(40)]).var(0, ddof=1).mean() for on in (False, True)
    )
    assert 150 < depth < 250 and plain > 10 * adjusted


def test_off_is_the_plain_estimator():
    """Recorded before there were control variates; the last digits are the machine's."""
    data = make_data()
    model = make_model("sams_vae paper", data.summary(), posterior="mean_field")
    plain = samslib.average_effects(model, data, ["A"], 60, control_variates=False)
    recorded = [1.45432973, -1.91119099, -0.79651046, -0.30091414, -0.12014737, -0.04561693]
    np.testing.assert_allclose(plain.X[0, :6], recorded, rtol=1e-4)
    np.testing.assert_allclose(plain.layers["standard_error"][0, :3], [0.7726833, 0.7533729, 0.6880583], rtol=1e-4)
    published = samslib.average_effects(model, data, ["A"], 60, as_published=True)
    assert not published.uns["samslib"]["control_variates"]
    for asked, particles in (({}, 500), ({"control_variates": False}, 2500), ({"as_published": True}, 2500)):
        assert samslib.average_effects(model, data, ["A"], **asked).uns["samslib"]["particles"] == particles
    with pytest.raises(ValueError, match="control_variates is True, but as_published is control_variates=False"):
        samslib.average_effects(model, data, ["A"], as_published=True, control_variates=True)


def test_with_few_particles_there_are_none():
    data = make_data()
    model = make_model("sams_vae", data.summary())
    few = [samslib.average_effects(model, data, ["A"], 40, control_variates=on).X for on in (True, False)]
    np.testing.assert_allclose(*few, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1e-4, 0.3, 4.0, 300.0])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_controls_have_mean_zero(likelihood, mean):
    """Five standard errors of 100,000 cells of two genes, 20 controls in all."""
    torch.manual_seed(0)
    m = torch.tensor([mean, 2.0], dtype=torch.float64).expand(100_000, 1, 2)
    c = torch.tensor([0.7, 3.0], dtype=torch.float64)
    law = {
        "negative_binomial": NegativeBinomial(m, c),
        "poisson": Poisson(m),
        "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial(m, c, torch.full_like(m, -0.5)),
    }[likelihood]
    _, _, *controls = seen(Drawn(law, law.sample()), READOUTS["perturbseq"], True)
    assert len(controls) == 2
    for control in controls:
        assert (abs(control.mean(0)) <= 5 * control.std(0) / np.sqrt(len(m)) + 1e-12).all()


def test_a_regression_on_known_coefficients():
    """value = 3 + a - 2 b + noise of 0.1: the mean of 400 particles is within five of its errors of 3, its error that
    of the noise, and no particle has a part in its own coefficients."""
    torch.manual_seed(0)
    a, b, noise = torch.randn(3, 400, 2, dtype=torch.float64)
    found = Adjusted()
    for block in torch.arange(400).split(25):
        found.add((3 + a - 2 * b + 0.1 * noise)[block], a[block], b[block])
    mean, variance = found.moments()
    assert (abs(mean - 3) < 5 * 0.1 / 20).all()
    np.testing.assert_allclose(variance.sqrt(), 0.1, rtol=0.2)
    np.testing.assert_allclose(found.coefficients()[:, 0], 1, atol=0.05)
    np.testing.assert_allclose(found.coefficients()[:, 1], -2, atol=0.05)
    before = found.coefficients()
    found.add(torch.full((1, 2), 1e3, dtype=torch.float64), *torch.ones(2, 1, 2, dtype=torch.float64))  # in fold 0
    torch.testing.assert_close(found.coefficients()[0], before[0], rtol=1e-3, atol=1e-3)
    assert (found.coefficients()[1] - before[1]).abs().min() > 0.1


def test_the_mean_of_a_normal_law_is_exact():
    """With the basal states held, a linear Gaussian effect varies with the shared latents alone."""
    data = linear_data()
    model = LinearGaussian(data.summary()).double()
    found = samslib.average_effects(model, data, ["A"], 4000, "mean")
    shared = model.spread**2 * model.W.detach().square().sum(1).numpy()
    np.testing.assert_allclose(found.layers["standard_error"][0] ** 2 * 4000, shared, rtol=5 * np.sqrt(2 / 4000))
    assert (abs(found.X - model.effects(data.dose_of("A"))) < 5 * found.layers["standard_error"]).all()


def test_the_posterior_variance_is_the_same_with_less_noise():
    """Means over 30 repeats agree within five standard errors of their difference, and are less than half as noisy."""
    data = make_data()
    model = make_model("sams_vae mean_field", data.summary())
    with torch.no_grad():
        model.embedding.loc.normal_(0, 3)
    runs = {
        on: [
            samslib.posterior_effects(model, data, ["A", "A+B"], 60, 4, control_variates=on, seed=s) for s in range(30)
        ]
        for on in (False, True)
    }
    for read in (lambda run: run.X, lambda run: run.layers["posterior_variance"]):
        plain, adjusted = (np.stack([read(run) for run in runs[on]]) for on in (False, True))
        error = np.sqrt((plain.var(0, ddof=1) + adjusted.var(0, ddof=1)) / 30)
        assert abs((adjusted.mean(0) - plain.mean(0)) / error).max() < 5
        assert adjusted.var(0).mean() < 0.25 * plain.var(0).mean()
    reported = np.mean([run.layers["standard_error"] ** 2 for run in runs[True]])
    assert 0.7 < reported / np.stack([run.X for run in runs[True]]).var(0, ddof=1).mean() < 1.4


def test_the_table_of_noise_at_a_small_size():
    """`make noise` has the whole of it."""
    found = noise.table((200,), (60, 120), 3, genes=20, steps=20)
    assert found["estimator"].tolist() == ["plain"] * 2 + ["control variates"] * 2
    assert found["particles"].tolist() == [60, 120] * 2 and np.isfinite(found.drop(columns="estimator")).all(axis=None)
    spread = found.set_index(["estimator", "particles"])["spread"]
    assert (spread["control variates"] < spread["plain"]).all()
