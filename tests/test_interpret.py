from __future__ import annotations

import numpy as np
import pytest

import samslib
from samslib.interpret import effect_recovery, mask_recovery, shared_latents


def test_recovery_is_blind_to_the_order_of_axes():
    rng = np.random.default_rng(0)
    truth = rng.random((20, 5)) < 0.3
    shuffled = np.hstack([truth[:, [3, 1, 4, 0, 2]], np.zeros((20, 2))])
    assert mask_recovery(truth, shuffled) == {"precision": 1, "recall": 1, "f1": 1}
    effects = truth * rng.normal(size=(20, 5))
    assert effect_recovery(effects, -2 * effects[:, ::-1]) == pytest.approx(1)


def test_recovery_counts():
    truth, found = np.array([[1, 0], [1, 0], [0, 1]]), np.array([[0.9, 0.8], [0.1, 0.9], [0.2, 0.3]])
    scores = mask_recovery(truth, found)  # axis 0 matched to found axis 1: two hits of three found and three true
    assert scores == {"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3}
    assert mask_recovery(truth, np.zeros((3, 2)))["f1"] == 0
    assert effect_recovery(truth, np.zeros((3, 2))) == 0


def test_shared_latents_are_labelled(model):
    if isinstance(model, (samslib.ConditionalVAE, *samslib.BASELINES.values())):
        with pytest.raises(ValueError, match=f"{type(model).__name__} shares no latents.*average_effects"):
            shared_latents(model)
        return
    table = shared_latents(model, particles=50)
    names = ["A", "A+B", "B", "C"] if isinstance(model, samslib.SVAEPlus) else ["A", "B", "C"]
    assert list(table.obs_names) == names and table.shape == (len(names), 3)
    if isinstance(model, (samslib.CPAVAE, samslib.CPA)):
        assert "M" not in table.layers
    elif model.options.get("mask_posterior") == "beta":  # uniform at first; six standard errors of 50 draws
        np.testing.assert_allclose(table.layers["M"], 0.5, atol=6 * (1 / 12 / 50) ** 0.5)
    else:
        logit = model.options["mask_initial_logit"]
        np.testing.assert_allclose(table.layers["M"], 1 / (1 + np.exp(-logit)), rtol=1e-5)
    if isinstance(model, samslib.SVAEPlus):  # E[M * E] with E a parameter
        np.testing.assert_allclose(table.layers["E"], model.embedding.detach().numpy(), rtol=1e-6)
        error = 6 * np.abs(table.layers["E"]) * (0.25 / 50) ** 0.5 + 1e-6
        assert (np.abs(table.X - table.layers["M"] * table.layers["E"]) < error).all()
    assert "E" in table.layers
