from __future__ import annotations

import pytest
import torch

from samslib.cells import Plate
from samslib.distributions import Normal
from samslib.trace import Trace


def test_draws_have_a_particle_axis_whatever_the_law():
    t = Trace(4)
    assert t.sample("table", Normal(torch.zeros(3, 2), torch.ones(3, 2)), Plate.DOSE).shape == (4, 3, 2)
    assert t.sample("network", Normal(torch.zeros(4, 3, 2), torch.ones(4, 3, 2)), Plate.DOSE).shape == (4, 3, 2)
    assert t.sites["table"].log_prob.shape == (4, 3, 2)
    assert set(t.values) == {"table", "network"}


def test_given_values_are_taken_and_scored():
    value = torch.full((2, 3, 1), 0.5)
    t = Trace(2, given={"E": value})
    assert t["E"] is value
    assert t.sample("E", Normal(torch.zeros(3, 1), torch.ones(3, 1)), Plate.DOSE) is value
    torch.testing.assert_close(t.sites["E"].log_prob, torch.distributions.Normal(0.0, 1.0).log_prob(value))


def test_replayed_draws_carry_gradients():
    loc = torch.zeros(3, 1, requires_grad=True)
    value = Trace(2, replay={"E": torch.ones(2, 3, 1)}).sample("E", Normal(loc, torch.ones(3, 1)), Plate.DOSE)
    assert torch.autograd.grad(value.sum(), loc)[0].tolist() == [[2.0]] * 3


def test_widened_rows_stand_in_their_own_columns():
    t = Trace(1, active={Plate.DOSE: torch.tensor([1, 3])})
    assert t.widen(torch.tensor([[5.0, 7.0], [0.0, 2.0]]), 5).tolist() == [[0, 5, 0, 7, 0], [0, 0, 0, 2, 0]]
    assert Trace(1).widen(torch.tensor([[5.0, 7.0]]), 2).tolist() == [[5, 7]]


def test_errors():
    with pytest.raises(ValueError, match="particles is 0"):
        Trace(0)
    t = Trace(1)
    t.sample("E", Normal(torch.zeros(1, 1), torch.ones(1, 1)), Plate.DOSE)
    with pytest.raises(ValueError, match="'E' is sampled twice"):
        t.sample("E", Normal(torch.zeros(1, 1), torch.ones(1, 1)), Plate.DOSE)
