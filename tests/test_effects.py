from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SMALL, make_data

import samslib
from samslib.effects import perturbseq


@pytest.fixture(scope="module")
def trained():
    data = make_data(cells=300)
    torch.manual_seed(0)
    model = samslib.CPAVAE(data.summary(), **SMALL)
    samslib.fit(model, data, None, samslib.FitConfig(steps=400, learning_rate=0.01, progress=False))
    return model, data


def test_effects_find_the_genes_that_were_doubled(trained):
    model, data = trained
    effects = samslib.average_effects(model, data, particles=400)
    assert list(effects.obs_names) == ["A", "B", "C", "A+B"] and effects.shape == (4, 12)
    table = effects.to_df()
    assert table.loc["A"].idxmax() == "gene0" and table.loc["B"].idxmax() == "gene1"
    assert set(table.loc["A+B"].nlargest(2).index) == {"gene0", "gene1"}
    assert table.loc["C"].abs().max() < 0.5 * table.loc["A", "gene0"]


def test_the_standard_error_is_that_of_repeats(trained):
    """The spread of 30 repeats is within a factor 2 of the mean reported error (chance of failing below 1e-4)."""
    model, data = trained
    runs = [samslib.average_effects(model, data, ["A"], particles=60, seed=s) for s in range(30)]
    spread = np.std([r.X for r in runs], axis=0, ddof=1).mean()
    reported = np.mean([r.layers["standard_error"] for r in runs])
    assert 0.5 < spread / reported < 2


def test_holding_the_basal_state_lowers_the_error(trained):
    model, data = trained
    deep = {"particles": 500, "library": 1e5}  # so deep that the cells' own variation, not counting, is the noise
    held, free = (samslib.average_effects(model, data, ["A"], hold=h, **deep) for h in (True, False))
    assert held.layers["standard_error"].mean() < free.layers["standard_error"].mean()


def test_names_in_any_order_and_new_combinations(trained):
    model, data = trained
    a, b = (samslib.average_effects(model, data, [name], particles=20) for name in ("A+B", "B+A"))
    np.testing.assert_array_equal(a.X, b.X)
    assert samslib.average_effects(model, data, ["B+C"], particles=20).shape == (1, 12)


def test_settings_travel_and_errors_are_named(trained):
    model, data = trained
    assert samslib.average_effects(model, data, ["A"], particles=8, library=1e4).uns["samslib"]["library"] == "10000.0"
    for arguments, message in [
        ({"perturbations": ["Z"]}, "Z"),
        ({"readout": "rank"}, "readout is 'rank'"),
        ({"library": "big"}, "library is 'big'"),
    ]:
        with pytest.raises(ValueError, match=message):
            samslib.average_effects(model, data, particles=4, **arguments)


def test_the_readout():
    x = torch.tensor([[0.0, 3.0, 1.0], [0.0, 0.0, 0.0]])
    expected = np.log2(1 + 1e4 * np.array([[0, 0.75, 0.25], [0, 0, 0]]))
    np.testing.assert_allclose(perturbseq(x).numpy(), expected, rtol=1e-6)


def test_a_counterfactual_moves_the_gene_of_the_dose(trained):
    model, data = trained
    controls = data[data.labels == "control"]
    stay, move = (samslib.counterfactual(model, controls, name) for name in ("control", "A"))
    assert stay.shape == controls.shape
    change = (move / stay).mean(0)
    assert change.argmax() == 0 and change[0] > 1.5
    np.testing.assert_allclose(stay.sum(1), controls.library, rtol=1e-3)


def test_every_model_answers_or_says_what_it_cannot(model, data):
    effects = samslib.average_effects(model, data, ["B", "A+B"], particles=6)
    assert effects.shape == (2, 12) and np.isfinite(effects.X).all() and (effects.X != 0).any()
    again = samslib.average_effects(model, data, ["B", "A+B"], particles=6)
    np.testing.assert_array_equal(effects.X, again.X)
    assert set(samslib.latents(model, data, particles=2)) >= set(model.exogenous)
    if model.exogenous:
        assert samslib.counterfactual(model, data, "B", particles=2).shape == data.shape
    else:
        with pytest.raises(ValueError, match=f"{type(model).__name__} has no exogenous latents.*average_effects"):
            samslib.counterfactual(model, data, "B", particles=2)


def test_effects_of_svae_plus_find_the_doubled_genes():
    """Its embedding is a parameter, read by the rows of the perturbations asked for, whatever their order."""
    data = make_data(cells=300).encode_unique()
    torch.manual_seed(0)
    model = samslib.SVAEPlus(data.summary(), **SMALL)
    samslib.fit(model, data, None, samslib.FitConfig(steps=400, learning_rate=0.01, progress=False))
    table = samslib.average_effects(model, data, ["B", "A"], particles=2000).to_df()
    assert table.loc["A"].idxmax() == "gene0" and table.loc["B"].idxmax() == "gene1"


def test_effects_of_the_conditional_vae_find_the_doubled_genes():
    data = make_data(cells=300)
    torch.manual_seed(0)
    model = samslib.ConditionalVAE(data.summary(), **SMALL)
    samslib.fit(model, data, None, samslib.FitConfig(steps=400, learning_rate=0.01, progress=False))
    table = samslib.average_effects(model, data, ["B", "A"], particles=2000).to_df()
    assert table.loc["A"].idxmax() == "gene0" and table.loc["B"].idxmax() == "gene1"


def test_latents_are_posterior_means_a_row_a_cell(trained):
    model, data = trained
    z = samslib.latents(model, data)["z_basal"]
    assert z.shape == (len(data), 3) and np.isfinite(z).all()
    np.testing.assert_allclose(z[:7], samslib.latents(model, data[:7])["z_basal"], atol=1e-5)
