from __future__ import annotations

import pytest
import torch

import samslib
from samslib.distributions import Point
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
    torch.manual_seed(0)
    shared = Trace(10)
    model.infer_shared(shared)
    q = Trace(10, given=shared.values)
    b = data.batch()
    model.infer_cells(q, b)
    expected = iwelbo(log_weights(model, b, q)).detach().double().numpy()
    assert abs(samslib.held_out_iwelbo(model, data, particles=10)["iwelbo"] - expected).max() < 1e-4


def test_more_particles_raise_it(model, data):
    """Means over 90 cells at 1 and at 50 particles: the gap is tens of standard errors for an untrained posterior."""
    one, many = (samslib.held_out_iwelbo(model, data, particles=p)["iwelbo"].mean() for p in (1, 50))
    assert many > one if inferred(model, data) else many == pytest.approx(one, abs=1e-4)
