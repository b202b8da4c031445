from __future__ import annotations

import numpy as np
import pytest
from conftest import LinearGaussian, ignored, linear_data

import samslib
from samslib.distributions import Point
from samslib.evaluate.streams import evaluating, reseed
from samslib.objective import iwelbo, log_weights, posterior
from samslib.trace import Trace


def inferred(model, data) -> bool:
    """Whether anything is drawn; without latent variables, or with a deterministic encoder, seeds change nothing."""
    return any(not isinstance(s.distribution, Point) for s in posterior(model, data.batch(), 1).sites.values())


def test_a_row_a_cell_and_seeded(model, data):
    scores = samslib.held_out_iwelbo(model, data, particles=10)
    assert list(scores.index) == list(data.cells) and list(scores["perturbation"]) == list(data.labels)
    assert scores["iwelbo"].equals(samslib.held_out_iwelbo(model, data, particles=10)["iwelbo"])
    other = samslib.held_out_iwelbo(model, data, particles=10, seed=1)["iwelbo"]
    assert scores["iwelbo"].equals(other) != inferred(model, data)


def test_it_is_the_bound_without_the_shared_charge(model, data):
    with evaluating(model, 0):
        reseed(0, 0)
        shared = Trace(10)
        model.infer_shared(shared)
        reseed(0, 0, 0)
        q = Trace(10, given=shared.values)
        b = data.batch()
        model.infer_cells(q, b)
        expected = iwelbo(log_weights(model, b, q)).double().numpy()
    assert abs(samslib.held_out_iwelbo(model, data, particles=10)["iwelbo"] - expected).max() < 1e-4


@pytest.mark.parametrize("elements", [1, 12 * 25 * 7])
def test_no_number_depends_on_the_memory(model, data, elements, monkeypatch):
    """One cell at a time, or seven, against all; 30 particles are two tiles of draws. The rest is rounding."""
    model.double()
    expected = samslib.held_out_iwelbo(model, data, particles=30)["iwelbo"]
    monkeypatch.setattr("samslib.evaluate.streams.ELEMENTS", elements)
    ours = samslib.held_out_iwelbo(model, data, particles=30)["iwelbo"]
    assert abs(ours - expected).max() < 1e-9 and np.isfinite(expected).all()


def test_the_bound_rises_to_the_exact_log_likelihood():
    """Linear and Gaussian, with an encoder whose mean is off by 0.3 and whose spread is 1.5 times too wide. Over ten
    seeds the mean over cells at K = 4,000 missed the exact value by 0.006 nats (standard deviation), so 0.04 at half as
    many is five of them."""
    data = linear_data()
    model = LinearGaussian(data.summary()).double()
    table = samslib.bound_by_particles(model, data, (1, 3, 10, 100, 1000, 2000))
    assert (np.diff(table["iwelbo"]) > 0).all()
    exact = model.exact(data)
    assert abs(table["iwelbo"].iloc[-1] - exact.mean()) < 0.04 < exact.mean() - table["iwelbo"].iloc[0]
    per_cell = samslib.held_out_iwelbo(model, data, particles=2000)["iwelbo"]
    assert table["iwelbo"].iloc[-1] == pytest.approx(per_cell.mean(), abs=1e-9)
    assert np.corrcoef(per_cell, exact)[0, 1] > 0.999


def test_the_bound_at_one_particle_is_the_mean_of_the_weights(model, data):
    table = samslib.bound_by_particles(model, data, (1, 4), seed=3)
    assert table["groups"].tolist() == [4, 1] and table["particles"].tolist() == [1, 4]
    scores = samslib.held_out_iwelbo(model, data, 4, seed=3)["iwelbo"]
    assert table["iwelbo"][1] == pytest.approx(scores.mean())
    assert table["standard_error"][1] == pytest.approx(scores.sem())


def test_no_argument_is_ignored():
    data = linear_data()
    base = {"model": LinearGaussian(data.summary()), "data": data}
    assert not ignored(samslib.held_out_iwelbo, base, particles=3, seed=1)
    assert not ignored(samslib.bound_spread, base, particles=3, repeats=2, seed=1)
    assert not ignored(samslib.bound_by_particles, base, particles=(1, 3), seed=1)


def test_every_cell_has_noise_of_its_own():
    """The same 128 cells twice, the size of a tile."""
    data = linear_data()[np.arange(256) % 128 % 60]
    scores = samslib.held_out_iwelbo(LinearGaussian(data.summary()), data, particles=2)["iwelbo"].to_numpy()
    assert (scores[:128] != scores[128:]).all()


def test_the_spread_over_shared_draws_is_between_its_rows():
    """At one particle the shared draw moves all cells together: over seeds, the mean over 200 cells spreads more than
    its standard error at fixed draws says. In ten trials of eight repeats the ratio was 1.9 to 4.9; 1.2 is 3.7 standard
    deviations of its logarithm below their mean."""
    data = linear_data(cells=200)
    model = LinearGaussian(data.summary(), posterior_spread=1.5)
    table = samslib.bound_spread(model, data, particles=1, repeats=8)
    assert table["seed"].tolist() == list(range(8))
    assert table["iwelbo"].std() > 1.2 * table["standard_error"].mean()
    for call in (samslib.held_out_iwelbo, samslib.bound_spread):
        with pytest.raises(ValueError, match="particles is 0"):
            call(model, data, particles=0)
    with pytest.raises(ValueError, match="particles is 0"):
        samslib.bound_by_particles(model, data, (0, 1))


def test_more_particles_raise_it(model, data):
    """The two bounds are of the same 50 draws, so by Jensen's inequality this holds for every seed."""
    one, many = samslib.bound_by_particles(model, data, (1, 50))["iwelbo"]
    assert many > one if inferred(model, data) else many == pytest.approx(one, abs=1e-4)
