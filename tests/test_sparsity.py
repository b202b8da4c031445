"""Spike and slab, direct effects, and the rotation of latent space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import SMALL, make_data
from scipy.stats import ortho_group

import samslib
from samslib.distributions import Bernoulli, Normal, Slab, StraightThroughBernoulli
from samslib.nets import DECODERS
from samslib.objective import posterior
from samslib.sparsity import numbers, sparsest_rotation
from samslib.trace import Trace
from samslib.training import TrainingStep, shared_counts, validate


def rotation(size, seed=0):
    return torch.tensor(ortho_group.rvs(size, random_state=seed), dtype=torch.float64)


def model_of(kind, data, **options):
    torch.manual_seed(0)
    made = kind(data.summary(), **SMALL, direct=False, **options).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("likelihood", DECODERS)
@pytest.mark.parametrize("kind", [samslib.SAMSVAE, samslib.CPAVAE])
@pytest.mark.parametrize("encoder_offset", [True, False])
def test_turning_latent_space_changes_no_cell(kind, likelihood, encoder_offset):
    """Point encodings and shifts, turned along, have the same likelihood and the same basal prior to 1e-10."""
    data = make_data()
    model = model_of(kind, data, likelihood=likelihood, encoder_offset=encoder_offset)
    b, R = data.batch(dtype=torch.float64), rotation(SMALL["latent"])
    shift = torch.randn(1, len(data.perturbations), SMALL["latent"], dtype=torch.float64)
    values = []
    for turned in (shift, shift @ R):
        t = Trace(1, given={"E": turned, "M": torch.ones_like(turned)})
        model.infer_cells(t, b)
        point = t.sites["z_basal"].distribution.mean.expand(1, -1, -1)
        p = Trace(1, given={**t.given, "z_basal": point})
        values.append((model.generate(p, b.condition).cell_log_prob(b.x), p.sites["z_basal"].log_prob.sum(-1), point))
        if turned is shift:
            before = model.shifts().clone()
            model.rotate(R)
    torch.testing.assert_close(values[0][:2], values[1][:2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(values[0][2] @ R, values[1][2])
    if kind is samslib.CPAVAE:
        torch.testing.assert_close(before @ R, model.shifts())
    assert not torch.allclose(values[0][2], values[1][2])


def test_the_bound_hardly_changes_with_diagonal_posteriors():
    """Variances cannot turn: over five rotations of a trained model the bound of a cell moves by less than half a nat,
    and not by nothing."""
    data = make_data(cells=300)
    model = samslib.CPAVAE(data.summary(), **SMALL, seed=0)
    samslib.fit(model, data, None, samslib.FitConfig(steps=300, batch_size=64, progress=False))
    first, moved = validate(model, data, 200)["val_loss"], []
    for seed in range(5):
        model.rotate(rotation(SMALL["latent"], seed).float())
        moved.append(abs(validate(model, data, 200)["val_loss"] - first))
    assert 0.001 < max(moved) < 0.5, moved


def test_the_sparsest_rotation_finds_hidden_axes():
    """Sparse shifts, turned at random and a little noisy, come back up to order and sign of the axes, in 18 of 20 draws
    at least: descent may end in a local minimum."""
    found = 0
    for seed in range(20):
        draws = torch.Generator().manual_seed(seed)
        mask = torch.rand(40, 6, generator=draws, dtype=torch.float64) < 0.15
        S = mask * torch.randn(40, 6, generator=draws, dtype=torch.float64) * 2
        noise = 0.02 * torch.randn(40, 6, generator=draws, dtype=torch.float64)
        hidden = rotation(6, seed)
        R = sparsest_rotation((S + noise) @ hidden)
        torch.testing.assert_close(R @ R.T, torch.eye(6, dtype=R.dtype))
        match = (hidden @ R).abs()
        found += bool((match.max(0).values > 0.99).all() and (match.max(1).values > 0.99).all())
    assert found >= 18


def test_a_slab_counts_only_where_the_mask_is_on():
    """Its ratio p / q is 1 where the mask is off; the closed divergence is the mean of the sampled one (10,000 draws,
    five standard errors); draws have no gradient but that of the slab."""
    torch.manual_seed(0)
    logits, loc, scale = torch.randn(3, 4), torch.randn(3, 4), torch.rand(3, 4) + 0.3
    law, prior = StraightThroughBernoulli(logits), Normal(torch.zeros(3, 4), torch.full((3, 4), 2.0))
    mask = law.rsample((10_000,))
    q = Slab(loc, scale, mask, law.mean, prior)
    E = q.rsample((10_000,))
    ratio = q.log_prob(E) - prior.log_prob(E)
    assert (ratio[mask == 0] == 0).all() and (ratio[mask == 1] != 0).all()
    total = ratio + law.log_prob(mask) - Bernoulli(torch.tensor(0.1)).log_prob(mask)
    closed = torch.distributions.kl_divergence(q, prior)
    closed = closed + torch.distributions.kl_divergence(law, Bernoulli(torch.full((3, 4), 0.1)))
    error = total.std(0) / 100
    assert ((total.mean(0) - closed).abs() < 5 * error).all()


def test_targets_share_effects_and_guides_differ_in_strength():
    """Guides of one target have the same mask and effects in every draw, of prior and of posterior, and another
    strength; the shift of a cell is strength times mask times effect."""
    data = replace(make_data(), targets=("first", "second", "first"))
    assert data.summary().rows == ("first", "second")
    model = samslib.SAMSVAE(data.summary(), **SMALL, direct=True)
    b = data.batch()
    q = posterior(model, b, 5)
    p = Trace(5)
    model.generate(p, b.condition)
    for t in (p, q):
        for name in ("M", "E", "M_direct", "O"):
            assert torch.equal(t[name][:, 0], t[name][:, 2])
        assert not torch.equal(q["E"][:, 0], q["E"][:, 1])
        assert not torch.equal(t["log_strength"][:, 0], t["log_strength"][:, 2])
    expected = b.condition.dose @ (q["log_strength"].exp() * q["E"] * q["M"])
    torch.testing.assert_close(model.shift(q, b.condition), expected)
    assert numbers(("b", "a", "b")).tolist() == [0, 1, 0]


def test_cells_without_a_guide_train_and_validate_too():
    """A batch of controls draws no target: its loss is finite, and effects and strengths get no gradient from it."""
    data = replace(make_data(), targets=("first", "second", "first"))
    controls = data[data.labels == "control"]
    model = samslib.SAMSVAE(data.summary(), **SMALL, seed=0)
    terms = TrainingStep(model, samslib.FitConfig(), shared_counts(data, torch.device("cpu"), torch.float32))
    assert terms(controls.batch())["loss"].isfinite()
    assert all((p.grad is None or (p.grad == 0).all()) for n, p in model.named_parameters() if "strength" in n)
    assert validate(model, controls, 2)["val_loss"] > 0


@pytest.mark.parametrize("rotation", [torch.eye(2), 2 * torch.eye(3), torch.ones(3, 3)])
def test_what_is_no_rotation_is_refused_and_nothing_is_turned(rotation):
    model = samslib.CPAVAE(make_data().summary(), **SMALL, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="orthogonal matrix of 3 x 3"):
        model.rotate(rotation)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_turns_once_and_ends_sparse():
    """The masks are dense until half of the steps, when optimisers start anew; only weights after it may be the best;
    and what was dense is known to the saved model."""
    data = make_data()
    model = samslib.SAMSVAE(data.summary(), **SMALL, seed=0)
    seen = []
    config = samslib.FitConfig(steps=12, validate_every=1, batch_size=32, progress=False)
    history = samslib.fit(model, data, data, config, monitor=lambda m: seen.append(m.settled) or {})
    assert seen == [False] * 6 + [True] * 6
    assert history.attrs["best_step"] > 6 and model.settled
    with pytest.raises(ValueError, match="dense_start=0.5.*spike_slab"):
        samslib.SAMSVAE(data.summary(), posterior="correlated")
    published = samslib.SAMSVAE.paper(data.summary(), encoder_width=8, decoder_width=8)
    assert published.settled and published.options["latent"] == 100 and "dense" not in published.state_dict()


def test_direct_effects_are_found_on_their_genes():
    """A gene of its own is quadrupled by A and another one by B: masks on genes are on there and hardly anywhere
    else."""
    data = make_data(cells=400)
    model = samslib.SAMSVAE(data.summary(), latent=2, encoder_width=8, decoder_width=8, direct=True, seed=0)
    samslib.fit(model, data, None, samslib.FitConfig(steps=500, batch_size=128, progress=False))
    on = model.direct.logits.detach().sigmoid() > 0.5
    assert on[0, 0] and on[1, 1] and on.sum() <= 4
