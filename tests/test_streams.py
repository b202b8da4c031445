"""Random streams that belong to their place in the work, and nobody else's."""

import torch
from conftest import make_data, make_model

from samslib.evaluate import streams


def test_every_key_has_a_stream_of_its_own():
    def drawn(*key):
        streams.reseed(*key)
        return torch.rand(3).tolist()

    keys = [(0,), (0, 0), (0, 1), (1, 0), (0, 1, 0), (1,)]
    assert len({tuple(drawn(*key)) for key in keys}) == len(keys) and drawn(0, 1) == drawn(0, 1)


def test_evaluation_leaves_the_model_and_the_callers_stream_as_they_were():
    model = make_model("sams_vae", make_data().summary())
    model.train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with streams.evaluating(model, 0) as like:
        assert not model.training and not torch.is_grad_enabled() and like is next(model.parameters())
        torch.rand(5)
    assert model.training and torch.equal(torch.get_rng_state(), before)


def test_portions_hold_no_more_than_allowed(monkeypatch):
    monkeypatch.setattr(streams, "ELEMENTS", 2 * 12 * 7)
    blocks = list(streams.portions(90, 2 * 12))
    assert [b.stop - b.start for b in blocks] == [7] * 12 + [6] and blocks[-1].stop == 90
    assert [b.stop for b in streams.portions(5, 2 * 12, most=2)] == [2, 4, 5]
    assert len(list(streams.portions(3, 1000))) == 3
