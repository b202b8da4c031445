"""Each model recovers what it should on data drawn from itself: a model of known weights generates the cells, another
one of its kind is trained on them from scratch by `fit`, and what it has learned is compared with the truth.

Data, weights and draws are seeded. Axes of a latent space have neither order nor sign, so they are matched, and every
null hypothesis is matched in the same way: its p-value is the share of permuted truths, the true one included, that
score as high, so that a model that has learned nothing of the truth passes a test at the stated level only.
"""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import samslib
from samslib import BASELINES, MODELS, FitConfig, fit
from samslib.evaluate.recovery import effect_recovery, mask_recovery, match_axes, shared_latents
from samslib.trace import Trace

SIZES = {"latent": 5, "encoder_width": 32, "decoder_width": 32}


def draw(kind, obs, library, seed, setting=lambda truth: None, genes=40, **options):
    """Cells of these conditions from a model of random weights (its output layer fourfold, its concentrations e^2),
    its data, the model itself, and the latent variables drawn."""

    def read(x):
        given = {name: name for name in ("dose",) if name in obs} | ({"quality": "fails"} if "fails" in obs else {})
        return samslib.PerturbationData.from_anndata(anndata.AnnData(x, obs=obs), **given)

    empty = read(np.ones((len(obs), genes), np.float32))
    torch.manual_seed(seed)
    truth, t = kind(empty.summary(), **options), Trace(1)
    with torch.no_grad():
        truth.decoder.logits.weight.mul_(4)
        truth.decoder.log_concentration.fill_(2.0)
        setting(truth)
        c = empty.batch().condition.do(library=torch.full((1, 1), library))
        x = truth.generate(t, c).sample()[0]
    return read(x.numpy()), truth, {name: value[0].detach().numpy() for name, value in t.values.items()}


def trained(kind, data, seed, settings, **options):
    torch.manual_seed(seed + 100)
    model = kind(data.summary(), **options)
    config = {"batch_size": 256, "seed": seed, "progress": False, "device": "cpu"}
    fit(model, data, None, FitConfig(**(config | settings)))
    return model


def p_value(score, truth, found, draws=999):
    """Share of truths, this one and `draws` with its rows in random order, that agree with what was found as well."""
    rng = np.random.default_rng(0)
    least = score(truth, found)
    return (1 + sum(score(truth[rng.permutation(len(truth))], found) >= least for _ in range(draws))) / (1 + draws)


def table(conditions, **columns):
    cells = [f"cell{i}" for i in range(len(conditions))]
    return pd.DataFrame({"perturbation": conditions, **columns}, index=cells)


# --- masks ------------------------------------------------------------------------------------------------

SPARSE = {
    "sams_vae": {"mask_prior": 0.2, "embedding_scale": 4.0, "posterior": "mean_field"},
    "learned_sparsity": {"mask_beta": 4.0, "embedding_scale": 4.0, "posterior": "mean_field"},
    "svae_plus": {"mask_beta": 4.0, "embedding_initial_spread": 4.0},
}


def f1(truth, found):
    return mask_recovery(truth, found)["f1"].item()


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_models_recover_masks_and_effects(name):
    """F1 of the mask, and correlation of M * E, against 999 truths whose perturbations are in random order: p at most
    0.001 each, so a model that has learned nothing passes once in 1,000 runs."""
    kind, options = MODELS[name], SIZES | SPARSE[name]
    obs = table(np.repeat(["control", *(f"P{t:02}" for t in range(40))], [100] + 40 * [30]))
    data, _, true = draw(kind, obs, 1000.0, seed=0, **options)
    model = trained(kind, data, 0, {"steps": 600, "learning_rate": 0.01, "particles": 2}, **options)
    found, effect = shared_latents(model), true["M"] * true["E"]
    p_mask, p_effect = p_value(f1, true["M"], found.layers["M"]), p_value(effect_recovery, effect, found.X)
    print(
        name,
        mask_recovery(true["M"], found.layers["M"]).loc[0].to_dict(),
        p_mask,
        effect_recovery(effect, found.X),
        p_effect,
    )
    assert max(p_mask, p_effect) <= 0.001


# --- responses in gene space ------------------------------------------------------------------------------


def response(model, c, shared=None, particles=1000):
    """(rows, G) mean expression under each condition over basal states drawn from the prior, the same for all; what
    cells share is given, or else drawn from the posterior."""
    torch.manual_seed(1)
    with torch.no_grad():
        t = Trace(particles, given={n: torch.tensor(v).expand(particles, -1, -1) for n, v in (shared or {}).items()})
        if not shared:
            model.infer_shared(t)
        z = torch.randn(particles, 1, SIZES["latent"]).expand(-1, len(c), -1)
        return model.generate(Trace(particles, given=t.values | {"z_basal": z}), c).mean.mean(0).numpy()


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_cpa_recovers_its_responses_at_doses_never_seen():
    """Trained in full (encoder, decoder, curves and adversary) on four doses, 0.25, 0.5, 2 and 8; asked for seven
    others. The change of expression with dose correlates with the truth, over genes, doses and perturbations: no more
    than with 999 truths whose genes are in random order would happen once in 1,000 runs; and more than for a straight
    line in the dose (the linear baseline).

    The claim is about shape. The height is not recovered (0.66 of the true one here): the encoder keeps a part of the
    effect in the basal state, a larger one with 1,000 counts a cell or without the adversary.
    """
    size = SIZES | {"encoder_layers": 1, "decoder_layers": 1, "dose_curve": "sigm", "variational": True}
    size |= {"adversary_weight": 20.0, "adversary_layers": 2, "adversary_width": 32}
    seen, unseen = np.repeat([0.25, 0.5, 2.0, 8.0], 60), torch.tensor([0.35, 0.7, 1.0, 1.4, 2.8, 4.0, 5.7])
    names = np.repeat(["control", *"ABCD"], [200, *4 * [len(seen)]])
    obs = table(names, dose=np.concatenate([np.ones(200), *4 * [seen]]))

    def curves(truth):
        slope, half = torch.tensor([6.0, 4.0, 3.0, 2.0]), torch.tensor([0.5, 1.0, 2.0, 0.8])
        truth.dose_curves.slope.copy_(slope)
        truth.dose_curves.bias.copy_(-slope * half)
        truth.embedding.mul_(3 / truth.embedding.norm(dim=1, keepdim=True))

    data, truth, _ = draw(MODELS["cpa"], obs, 60.0, 0, curves, **size)
    settings = {"steps": 600, "learning_rate": 0.007, "particles": 1}
    settings["critic"] = samslib.Schedule(pretrain=50, warm_up=50)
    model = trained(MODELS["cpa"], data, 0, settings, **size)
    dose = torch.cat([torch.zeros(1, 4), torch.kron(torch.eye(4), unseen[:, None])])
    c = data.batch(slice(0, len(dose))).condition.do(dose=dose, library=torch.full((1, 1), 60.0))
    means = [response(m, c) for m in (truth, model, BASELINES["linear"](data.summary(pseudobulk=True)))]
    known, found, line = ((m[1:] - m[:1]).T for m in means)
    p = p_value(correlation, known, found)
    height = np.linalg.norm(found) / np.linalg.norm(known)
    print("CPA", correlation(known, found), "p", p, "line", correlation(known, line), "relative height", height)
    assert p <= 0.001 and correlation(known, found) > correlation(known, line)


# --- the artifact and what is left without it -------------------------------------------------------------


def test_cradle_vae_recovers_the_artifact_and_clean_effects():
    """Expression of failing minus passing controls, and effects of the perturbations on passing cells, correlate with
    the truth over genes; p at most 0.001 each against 999 truths whose genes are in random order, so a model that has
    learned nothing of a gene passes once in 1,000 runs. That clean effects are closer to the truth than those of a
    model that ignores the flag is tested in test_cradle_vae.py."""
    options = SIZES | {"mask_prior": 0.2, "embedding_scale": 3.0, "embedding_width": 16, "embedding_layers": 1}
    options |= {"auxiliary_weight": 0.05}
    rng, which = np.random.default_rng(0), np.arange(1500) % 6
    fails = rng.random(1500) < np.array([0.1, 0.8, 0.1, 0.8, 0.1, 0.5])[which]
    obs = table(np.array(["control", *"ABCDE"])[which], fails=fails.astype(int))
    data, truth, true = draw(MODELS["cradle_vae"], obs, 500.0, seed=1, **options)
    data = samslib.quality.with_twins(data)
    settings = {"steps": 400, "learning_rate": 0.01, "particles": 2}
    model = trained(MODELS["cradle_vae"], data, 1, settings, **options)
    dose = torch.cat([torch.zeros(2, 5), torch.eye(5)])  # a control, a failing control, each perturbation
    c = data.batch(slice(0, 7)).condition.do(dose=dose, library=torch.full((1, 1), 500.0), qc=torch.eye(7)[:, 1:2])
    known, found = response(truth, c, {name: true[name] for name in "MEA"}), response(model, c)
    for what, rows in (("artifact", slice(1, 2)), ("effects", slice(2, 7))):
        a, b = ((m[rows] - m[:1]).T for m in (known, found))
        p = p_value(correlation, a, b)
        print("CRADLE-VAE", what, correlation(a, b), "p", p)
        assert p <= 0.001, what


def knock_downs(cells: int = 100, seed: int = 0) -> samslib.PerturbationData:
    """Guides a and b of P1 and P2, each of which takes a gene of its own down, to a fifth and to 45%: strengths 1 and
    one half. Other genes answer to no guide."""
    rng = np.random.default_rng(seed)
    strength = {"control": 0, "P1_a": 1, "P1_b": 0.5, "P2_a": 1, "P2_b": 0.5}
    labels = np.array(list(strength)).repeat(cells)
    rate = np.full((len(labels), 20), 10.0)
    for gene, target in enumerate(("P1", "P2")):
        rate[:, gene] *= 0.2 ** np.where(np.char.startswith(labels, target), [strength[of] for of in labels], 0)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    adata = anndata.AnnData(rng.poisson(rate).astype(np.float32), obs, pd.DataFrame(index=[f"g{i}" for i in range(20)]))
    return samslib.PerturbationData.from_anndata(adata, target=lambda name: name.split("_")[0])


def test_knocked_down_genes_are_listed_with_the_strengths_of_guides():
    """The two genes and no other; effects times strengths are the logarithms of 0.2 and 0.45 within 0.25 in all of 20
    trials with other cells and weights."""
    data = knock_downs()
    model = samslib.SAMSVAE(data.summary(), latent=2, encoder_width=8, decoder_width=8, direct=True, seed=0)
    fit(model, data, None, FitConfig(steps=500, batch_size=128, progress=False))
    found, guides = samslib.direct_effects(model), samslib.guide_strengths(model)
    assert found[["target", "gene"]].to_numpy().tolist() == [["P1", "g0"], ["P2", "g1"]]
    assert guides["guide"].tolist() == list(data.perturbations) and guides["target"].tolist() == list(data.targets)
    product = guides.merge(found, on="target").eval("strength * effect")
    np.testing.assert_allclose(product, np.log([0.2, 0.2**0.5] * 2), atol=0.25)
    assert (found["probability"] > 0.9).all() and found["sd"].between(0.01, 0.3).all()
    assert (guides["low"] < guides["strength"]).all() and (guides["strength"] < guides["high"]).all()
    assert (guides["high"][1] < guides["low"][0]) and (guides["high"][3] < guides["low"][2])
    narrow = samslib.guide_strengths(model, level=0.5)
    assert (narrow["low"] > guides["low"]).all() and (narrow["strength"] == guides["strength"]).all()
    every = samslib.direct_effects(model, threshold=0)
    assert len(every) == 40 and every["target"].tolist() == ["P1"] * 20 + ["P2"] * 20 and every["gene"][0] == "g0"
    assert (every.groupby("target")["probability"].diff().dropna() <= 0).all()


def test_models_without_direct_effects_or_strengths_say_so():
    data = knock_downs(cells=4)
    small = {"latent": 2, "encoder_width": 8, "decoder_width": 8}
    each = samslib.CPAVAE(data.summary(), **small, direct=True)
    assert set(samslib.direct_effects(each, 0)["target"]) == set(data.perturbations), "which have no rows for targets"
    for model in (samslib.CPAVAE(data.summary(), **small), samslib.SAMSVAE(data.summary(), **small, direct=False)):
        with pytest.raises(ValueError, match="has no direct effects; make a SAMSVAE or CPAVAE with direct=True"):
            samslib.direct_effects(model)
    with pytest.raises(ValueError, match="CPAVAE has no strengths of guides; make a SAMSVAE of data with targets"):
        samslib.guide_strengths(each)
    with pytest.raises(ValueError, match="threshold"):
        samslib.direct_effects(each, threshold=2)
    with pytest.raises(ValueError, match="level"):
        samslib.guide_strengths(each, level=1)


def test_matched_axes_have_the_order_and_sign_of_the_true_ones():
    truth = np.random.default_rng(0).normal(size=(30, 3))
    truth[:, 1] = 0  # never varies
    spare = np.random.default_rng(1).normal(size=(30, 2))
    mixed = np.c_[spare[:, 0], -truth[:, 2], spare[:, 1], 2 * truth[:, 0]]
    made = match_axes(truth, mixed)
    assert made.shape == (30, 4)
    np.testing.assert_allclose(made[:, [0, 2]], truth[:, [0, 2]] * [2, 1])
    few = match_axes(truth, mixed[:, 3:])
    np.testing.assert_allclose(few, np.c_[2 * truth[:, 0], np.zeros((30, 2))])
