"""The published implementation's numbers, draw by draw, and its checkpoints."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import ROOT
from replay import batch_of, replay

from samslib import CPAVAE, SAMSVAE, BetaBernoulliSAMSVAE, ConditionalVAE, SVAEPlus, official
from samslib.cells import Plate
from samslib.objective import elbo, log_weights
from samslib.trace import Trace

GOLDEN = ROOT / "tests" / "golden"
INDEX = json.loads((GOLDEN / "index.json").read_text())
INPUTS = ("in", "param", "sample", "sample_logit_soft")


def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def state(name: str) -> dict[str, np.ndarray]:
    return {k.removeprefix("param/"): v for k, v in arrays(name).items() if k.startswith("param/")}


@pytest.mark.parametrize("name", INDEX)
def test_golden(name, record_property):
    expected = arrays(name)
    ours = replay(INDEX[name], expected)
    differences = {}
    for key, value in expected.items():
        if key.split("/")[0] not in INPUTS:
            assert ours[key].shape == value.shape, key
            differences[key] = float(np.abs(ours[key] - value).max())
    worst = max(differences, key=lambda k: differences[k])
    told = f"{name}: {len(differences)} arrays, largest difference {differences[worst]:.1e} ({worst})"
    record_property("golden", told)
    assert differences[worst] < 1e-6, worst
    assert {k for k in ours if k.startswith("grad/")} == {k for k in expected if k.startswith("grad/")}


def test_golden_sees_a_wrong_weight():
    name = "sams_corrguide_correnc_L1"
    changed = arrays(name)
    changed["param/guide.embedding_encoder.mean_encoder.bias"] += 1e-4
    assert np.abs(replay(INDEX[name], changed)["loss"] - changed["loss"]) > 1e-6


def test_lightning_prefixes_and_sizes_left_out():
    name = "sams_corrguide_correnc_L1"
    entry = {k: INDEX[name][k] for k in ("model", "guide")}
    entry |= {
        part: {k: v for k, v in INDEX[name][part].items() if not k.startswith("n_")}
        for part in ("model_kwargs", "guide_kwargs")
    }
    checkpoint = {f"loss_module.{k}": torch.from_numpy(v) for k, v in state(name).items()}
    checkpoint |= {f"predictor.{k}": torch.from_numpy(v) for k, v in state(name).items()}
    model = official.model(entry, checkpoint)
    assert isinstance(model, SAMSVAE) and model.options["latent"] == 4
    whole = official.model(INDEX[name], state(name))
    for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# Parameter names of the published classes, written out by hand from its sources; sizes: T 3, L 2, G 5, width 4.
TRUNK = {
    "mlp.layers.0.0.weight": (4, None),
    "mlp.layers.0.0.bias": (4,),
    "mlp.layers.1.0.weight": (4, 4),
    "mlp.layers.1.0.bias": (4,),
}
NORMAL_HEADS = {
    "mean_encoder.weight": (None, 4),
    "mean_encoder.bias": (None,),
    "log_var_encoder.weight": (None, 4),
    "log_var_encoder.bias": (None,),
}
DECODER_HEADS = {
    "library_nb": {"normalized_mean_decoder.0.weight": (5, 4), "normalized_mean_decoder.0.bias": (5,),
                   "log_concentration": (5,)},
    "poisson": {"rate_decoder.0.weight": (5, 4), "rate_decoder.0.bias": (5,)},
    "normal": NORMAL_HEADS,
    "normal_fixed_variance": {"mean_encoder.weight": (5, 4), "mean_encoder.bias": (5,),
                              "log_var_encoder.log_var": (5,)},
}  # fmt: skip
NORMALIZATION = {"log_standardize": ("log_mean", "log_scale"), "standardize": ("mean", "scale"), None: ()}


def fill(shapes, prefix, inputs, outputs):
    sizes = {"mlp.layers.0.0.weight": inputs}
    return {
        f"{prefix}.{k}": torch.randn([d if d is not None else sizes.get(k, outputs) for d in shape])
        for k, shape in shapes.items()
    }


@pytest.mark.parametrize("likelihood", DECODER_HEADS)
@pytest.mark.parametrize("normalization", NORMALIZATION)
@pytest.mark.parametrize("guide", ["SAMSVAEMeanFieldNormalGuide", "SAMSVAECorrelatedNormalGuide", "CPAVAENormalGuide"])
def test_every_keyword_finds_its_place(likelihood, normalization, guide):
    sams, correlated, offset = guide.startswith("SAMS"), "Correlated" in guide, normalization != "standardize"
    given = {"model.p_E_loc": torch.zeros(3, 2), "model.p_E_scale": torch.full((3, 2), 0.7)}
    given |= fill(TRUNK | DECODER_HEADS[likelihood], "model.decoder", 2, 5)
    given |= fill(TRUNK | NORMAL_HEADS, "guide.z_basal_encoder", 5 + 2 * offset, 2)
    given |= {f"guide.normalization_module.{k}": torch.rand(5) + 0.5 for k in NORMALIZATION[normalization]}
    guide_kwargs = {
        "basal_encoder_n_layers": 2, "basal_encoder_n_hidden": 4,
        "basal_encoder_input_normalization": normalization, "mean_field_encoder": not offset,
    }  # fmt: skip
    model_kwargs = {
        "likelihood_key": likelihood,
        "decoder_n_layers": 2,
        "decoder_n_hidden": 4,
        "embedding_prior_scale": 0.7,
    }
    if sams:
        model_kwargs["mask_prior_prob"] = 0.25
        guide_kwargs |= {"gs_temperature": 0.5, "mask_init_logits": 1.0}
        given |= {"model.p_mask_probs": torch.full((3, 2), 0.25), "guide.gs_temperature": torch.tensor([0.5])}
        given["guide.param_dict.q_mask_logits"] = torch.randn(3, 2)
    if correlated:
        guide_kwargs |= {"embedding_encoder_n_layers": 2, "embedding_encoder_n_hidden": 4}
        given |= fill(TRUNK | NORMAL_HEADS, "guide.embedding_encoder", 2 + 3, 2)
        given["guide.treatment_one_hot"] = torch.eye(3)
    else:
        guide_kwargs |= {"embedding_loc_init_scale": 0.1, "embedding_scale_init": 0.5}
        given |= {f"guide.param_dict.q_E_{k}": torch.randn(3, 2) for k in ("loc", "log_scale")}
    config = {
        "model": "SAMSVAEModel" if sams else "CPAVAEModel", "guide": guide,
        "model_kwargs": model_kwargs, "guide_kwargs": guide_kwargs,
    }  # fmt: skip
    model = official.model(config, given)
    assert type(model) is (SAMSVAE if sams else CPAVAE)
    assert model.options["likelihood"] == official.LIKELIHOODS[likelihood]
    assert model.options["encoder_offset"] is offset
    if sams:
        assert model.options["temperature"] == 0.5 and model.options["mask_prior"] == 0.25
    for mine, theirs in official.parameter_names(model).items():
        assert torch.equal(model.state_dict()[mine], given[theirs]), theirs


BETA_BERNOULLI = ["CorrelatedBernoulliNormal", "MeanFieldBernoulliNormal", "MeanFieldBetaBernoulliNormal"]


@pytest.mark.parametrize("likelihood", DECODER_HEADS)
@pytest.mark.parametrize("normalization", NORMALIZATION)
@pytest.mark.parametrize("guide", [*BETA_BERNOULLI, "SVAEPlusGuide", "ConditionalVAEGuide"])
def test_every_keyword_of_the_family_finds_its_place(likelihood, normalization, guide):
    """The names of the tables of the Beta posterior are presumed; all others are in the golden files."""
    beta, svae = guide in BETA_BERNOULLI, guide == "SVAEPlusGuide"
    basal, name = ("basal_", "z_basal_encoder") if beta else ("", "z_encoder")
    given = fill(TRUNK | DECODER_HEADS[likelihood], "model.decoder", 2 if beta or svae else 5, 5)
    given |= fill(TRUNK | NORMAL_HEADS, f"guide.{name}", 5 + (2 if beta else 0 if svae else 3), 2)
    given |= {f"guide.normalization_module.{k}": torch.rand(5) + 0.5 for k in NORMALIZATION[normalization]}
    guide_kwargs = {
        f"{basal}encoder_n_layers": 2, f"{basal}encoder_n_hidden": 4,
        f"{basal}encoder_input_normalization": normalization, "n_latent": 2, "n_treatments": 3, "n_phenos": 5,
    }  # fmt: skip
    model_kwargs = {"likelihood_key": likelihood, "decoder_n_layers": 2, "decoder_n_hidden": 4, "n_latent": 2}
    if beta or svae:
        keys = ("mask_prior_alpha", "mask_prior_beta") if beta else [f"mask_beta_concentration_{i}" for i in (1, 2)]
        tables = ("p_mask_probs_alpha", "p_mask_probs_beta") if beta else keys
        model_kwargs |= {keys[0]: 2.0, keys[1]: 7.0}
        given |= {f"model.{t}": torch.full((3, 2), v) for t, v in zip(tables, (2.0, 7.0), strict=True)}
        given["guide.gs_temperature"], guide_kwargs["gs_temperature"] = torch.tensor([0.5]), 0.5
        if guide == "MeanFieldBetaBernoulliNormal":
            given |= {f"guide.param_dict.q_mask_probs_{k}": torch.rand(3, 2) * 4 + 0.1 for k in ("alpha", "beta")}
            guide_kwargs |= {"mask_probs_init_alpha": 3.0, "mask_probs_init_beta": 0.5}
        else:
            given["guide.param_dict.q_mask_logits"], guide_kwargs["mask_init_logits"] = torch.randn(3, 2), 1.0
    if svae:
        given["model.action_prior_mean"] = torch.randn(3, 2)
    if beta:
        given |= {"model.p_E_loc": torch.zeros(3, 2), "model.p_E_scale": torch.full((3, 2), 0.7)}
        model_kwargs["embedding_prior_scale"], guide_kwargs["mean_field_encoder"] = 0.7, False
    if guide.startswith("Correlated"):
        guide_kwargs |= {"embedding_encoder_n_layers": 2, "embedding_encoder_n_hidden": 4}
        given |= fill(TRUNK | NORMAL_HEADS, "guide.embedding_encoder", 2 + 3, 2)
        given["guide.treatment_one_hot"] = torch.eye(3)
    elif beta:
        guide_kwargs |= {"embedding_loc_init_scale": 0.1, "embedding_scale_init": 0.5}
        given |= {f"guide.param_dict.q_E_{k}": torch.randn(3, 2) for k in ("loc", "log_scale")}
    config = {
        "model": "SAMSVAEBetaBernoulliModel" if beta else guide.replace("Guide", "Model"),
        "guide": f"SAMSVAEBetaBernoulli{guide}Guide" if beta else guide,
        "model_kwargs": model_kwargs, "guide_kwargs": guide_kwargs,
    }  # fmt: skip
    model = official.model(config, given)
    assert type(model) is (BetaBernoulliSAMSVAE if beta else SVAEPlus if svae else ConditionalVAE)
    assert model.options["likelihood"] == official.LIKELIHOODS[likelihood] and model.options["latent"] == 2
    if beta or svae:
        assert [model.options[k] for k in ("mask_alpha", "mask_beta", "temperature")] == [2, 7, 0.5]
    if guide == "MeanFieldBetaBernoulliNormal":  # a model made anew starts where theirs did
        new = type(model)(model.summary, **model.options)
        torch.testing.assert_close(new.mask_log_alpha.exp(), torch.full((3, 2), 3.0))
        torch.testing.assert_close(new.mask_log_beta.exp(), torch.full((3, 2), 0.5))
    for mine, theirs in official.parameter_names(model).items():
        value = model.state_dict()[mine]
        if mine in official.LOGARITHMS:
            torch.testing.assert_close(value.exp(), given[theirs])
        else:
            assert torch.equal(value, given[theirs]), theirs


def test_a_beta_posterior_is_loaded_and_replayed():
    """The golden pass with a Beta in place of the point: densities are scipy's at the published (free) concentrations,
    and gradients are with respect to those, not to our logarithms of them."""
    name = "betabern_mf_bernoulli"
    entry = INDEX[name] | {"guide": "SAMSVAEBetaBernoulliMeanFieldBetaBernoulliNormalGuide"}
    given = arrays(name)
    shape, rng = given.pop("param/guide.param_dict.q_mask_logits").shape, np.random.default_rng(0)
    tables = {f"guide.param_dict.q_mask_probs_{k}": rng.uniform(0.3, 4, shape) for k in ("alpha", "beta")}
    given |= {f"param/{k}": v for k, v in tables.items()}
    ours = replay(entry, given)
    density = scipy.stats.beta.logpdf(given["sample/mask_probs"], *tables.values())
    np.testing.assert_allclose(ours["logq/mask_probs"], density, atol=1e-10)
    np.testing.assert_allclose(ours["logp/mask_probs"], given["logp/mask_probs"], atol=1e-10)

    weights = {k.removeprefix("param/"): v for k, v in given.items() if k.startswith("param/")}
    model = official.model(entry, weights)
    draws = {"M": "sample_logit_soft/mask", "pi": "sample/mask_probs", "E": "sample/E", "z_basal": "sample/z_basal"}
    q = Trace(3, replay={k: torch.as_tensor(given[v]) for k, v in draws.items()})
    b = batch_of({k: torch.as_tensor(v) for k, v in given.items()}, torch.float64)
    model.infer_shared(q)
    model.infer_cells(q, b)
    (-elbo(log_weights(model, b, q, {Plate.DOSE: torch.as_tensor(given["in/D_obs_counts"])})).mean()).backward()
    for mine, theirs in (("mask_log_alpha", "alpha"), ("mask_log_beta", "beta")):
        theirs = f"guide.param_dict.q_mask_probs_{theirs}"
        gradient = model.get_parameter(mine).grad.numpy()
        assert (gradient[:5] != 0).all()
        np.testing.assert_allclose(ours[f"grad/{theirs}"] * tables[theirs], gradient, atol=1e-12)
    with pytest.raises(ValueError, match="q_mask_probs_alpha has entries that are not positive"):
        official.model(entry, weights | {"guide.param_dict.q_mask_probs_alpha": -tables[theirs]})


def test_errors_name_the_thing():
    name = "cpa_correnc_L1"
    entry, weights = INDEX[name], state(name)
    with pytest.raises(ValueError, match="no known pair"):
        official.model(entry | {"guide": "Nobody"}, weights)
    with pytest.raises(ValueError, match="'dropout'.*does not take"):
        official.model(entry | {"model_kwargs": entry["model_kwargs"] | {"dropout": 0.1}}, weights)
    with pytest.raises(ValueError, match="lacks .*log_concentration"):
        official.model(entry, {k: v for k, v in weights.items() if "log_concentration" not in k})
    with pytest.raises(ValueError, match="has \\['guide.new'\\]"):
        official.model(entry, weights | {"guide.new": np.zeros(1)})
    with pytest.raises(ValueError, match="keywords"):
        official.model(entry | {"model_kwargs": entry["model_kwargs"] | {"decoder_n_hidden": 9}}, weights)
    with pytest.raises(ValueError, match="p_E_scale"):
        official.model(entry | {"model_kwargs": entry["model_kwargs"] | {"embedding_prior_scale": 9.0}}, weights)
    with pytest.raises(ValueError, match="z_basal_encoder"):
        official.model(entry, {"something": np.zeros(2)})
    with pytest.raises(ValueError, match="lacks .*'model.decoder"):
        official.model(INDEX["cvae_L1"], {k: v for k, v in state("cvae_L1").items() if "decoder" not in k})
