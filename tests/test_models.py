"""The contract that every model of MODELS keeps."""

from __future__ import annotations

import pytest
import torch
from conftest import SMALL, make_data

from samslib import MODELS, load, save
from samslib.cells import Plate
from samslib.objective import elbo, iwelbo, log_weights, posterior, present
from samslib.trace import Trace
from samslib.training import shared_counts

ALL = pytest.mark.parametrize("name", sorted(MODELS))


def passes(model, data, particles=4):
    b = data.batch(dtype=next(model.parameters()).dtype)
    torch.manual_seed(1)
    return b, posterior(model, b, particles)


def counts_of(data, dtype=torch.float32):
    return shared_counts(data, torch.device("cpu"), dtype)


def test_prior_and_posterior_have_the_same_sites(model, data):
    b, q = passes(model, data)
    p = Trace(4)
    model.generate(p, b.condition)
    assert {n: (s.plate, s.value.shape) for n, s in p.sites.items()} == {
        n: (s.plate, s.value.shape) for n, s in q.sites.items()
    }


def test_terms_are_finite_and_the_bounds_ordered(model, data):
    b, q = passes(model, data)
    terms = log_weights(model, b, q, counts_of(data))
    assert set(terms) == {"x", *q.sites}
    assert all(v.shape == (4, len(data)) and v.isfinite().all() for v in terms.values())
    assert (elbo(terms) <= iwelbo(terms) + 1e-4).all()
    held_out = log_weights(model, b, q)
    assert set(held_out) == {"x", *(n for n, s in q.sites.items() if s.plate is Plate.CELL)}


def test_an_epoch_charges_every_perturbation_once(model, data):
    """Whatever the batches: the charges of all cells add up to one log p - log q for each perturbation seen."""
    torch.manual_seed(0)
    shared = Trace(3)
    model.infer_shared(shared)
    prior = Trace(3, given=shared.values)
    model.generate(prior, data.batch(slice(0, 1)).condition)
    total = {n: 0.0 for n in shared.sites}
    for start in range(0, len(data), 17):
        b = data.batch(slice(start, start + 17))
        q = Trace(3, given=shared.values)
        model.infer_shared(q)
        model.infer_cells(q, b)
        terms = log_weights(model, b, q, counts_of(data))
        total = {n: total[n] + terms[n].sum(1) for n in total}
    for name, site in shared.sites.items():
        once = (prior.sites[name].log_prob - site.log_prob).sum((1, 2))
        torch.testing.assert_close(total[name], once, rtol=1e-4, atol=1e-4)


def test_an_unseen_perturbation_is_never_charged(model, data):
    b, q = passes(model, data)
    counts = counts_of(data)
    counts[Plate.DOSE][0] = 0
    terms = log_weights(model, b, q, counts)
    assert all(v.isfinite().all() for v in terms.values())
    only = b.condition.dose[:, 0].bool() & ~b.condition.dose[:, 1:].any(1)
    assert only.any() and all((terms[n][:, only] == 0).all() for n, s in q.sites.items() if s.plate is Plate.DOSE)


def test_drawing_only_what_is_present_keeps_every_number(model, data):
    """The same draws on the rows of the batch give the same terms as a pass over all perturbations."""
    b = data[data.labels != "B"][:7].batch()
    b = data.batch([i for i, label in enumerate(data.labels) if label in ("A", "control")][:9])
    torch.manual_seed(2)
    whole = posterior(model, b, 4)
    small, active = present(b)
    assert len(active[Plate.DOSE]) < b.condition.dose.shape[1]
    draws = {n: v if whole.sites[n].plate is Plate.CELL else v[:, active[Plate.DOSE]] for n, v in whole.values.items()}
    part = Trace(4, given=draws, active=active)
    model.infer_shared(part)
    model.infer_cells(part, small)
    counts = counts_of(data)
    a, c = log_weights(model, b, whole, counts), log_weights(model, small, part, counts)
    for name in a:
        torch.testing.assert_close(a[name], c[name], rtol=1e-4, atol=1e-4)


def test_exogenous_latents_do_not_move_under_an_intervention(model, data):
    c = data.batch().condition
    for dose in (torch.zeros_like(c.dose), 3 * torch.ones_like(c.dose)):
        torch.manual_seed(0)
        p = Trace(2)
        model.generate(p, c.do(dose=dose))
        for name in model.exogenous:
            law = p.sites[name].distribution
            assert p.sites[name].plate is Plate.CELL
            torch.testing.assert_close(law.mean, torch.zeros_like(law.mean))
            torch.testing.assert_close(law.stddev, torch.ones_like(law.stddev))
    assert model.exogenous


def test_every_parameter_gets_a_gradient(model, data):
    b, q = passes(model, data)
    (-elbo(log_weights(model, b, q, counts_of(data))).mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_cells_are_exchangeable(model, data):
    b, q = passes(model, data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    moved = Trace(4, given={n: v[:, order] if q.sites[n].plate is Plate.CELL else v for n, v in q.values.items()})
    model.infer_shared(moved)
    model.infer_cells(moved, b[order])
    a = iwelbo(log_weights(model, b, q, counts_of(data)))
    torch.testing.assert_close(iwelbo(log_weights(model, b[order], moved, counts_of(data))), a[order])


def test_dose_zero_is_control(model, data):
    """A control's expression does not depend on what perturbations do."""
    c = data.batch().condition.do(dose=torch.zeros(1, len(data.perturbations)))
    torch.manual_seed(0)
    p = Trace(2)
    means = model.generate(p, c).mean
    changed = {
        n: v if s.plate is Plate.CELL else v + 5 for (n, v), s in zip(p.values.items(), p.sites.values(), strict=True)
    }
    torch.testing.assert_close(model.generate(Trace(2, given=changed), c).mean, means)


def test_save_and_load_give_the_same_numbers(model, data, tmp_path):
    again = load(save(model, tmp_path / "model.safetensors"))
    assert type(again) is type(model) and again.options == model.options
    b, q = passes(model, data)
    _, r = passes(again, data)
    a, c = log_weights(model, b, q, counts_of(data)), log_weights(again, b, r, counts_of(data))
    assert all(torch.equal(a[n], c[n]) for n in a)


def test_double_precision_gives_the_same_to_six_digits(model, data):
    b, q = passes(model, data)
    single = log_weights(model, b, q, counts_of(data))
    model.double()
    given = Trace(4, given={n: v.double() for n, v in q.values.items()})
    b = b.to(torch.float64)
    model.infer_shared(given)
    model.infer_cells(given, b)
    double = log_weights(model, b, given, counts_of(data, torch.float64))
    for name in single:
        assert double[name].dtype == torch.float64
        torch.testing.assert_close(single[name].double(), double[name], rtol=1e-4, atol=1e-3)


@ALL
def test_unknown_options_are_refused(name):
    summary = make_data().summary()
    with pytest.raises(ValueError, match="likelihood is 'gauss'.*negative_binomial"):
        MODELS[name](summary, likelihood="gauss", **SMALL)
    with pytest.raises(ValueError, match="normalization is 'sqrt'"):
        MODELS[name](summary, normalization="sqrt", **SMALL)


def test_sams_vae_options():
    summary = make_data().summary()
    with pytest.raises(ValueError, match="posterior is 'full'"):
        MODELS["sams_vae"](summary, posterior="full")
    with pytest.raises(ValueError, match="mask_prior is 0"):
        MODELS["sams_vae"](summary, mask_prior=0)


def test_cpa_vae_is_sams_vae_with_every_mask_on(data):
    """With the same weights and draws, and M = 1, the two models give the same likelihood."""
    sams = MODELS["sams_vae"](data.summary(), posterior="mean_field", **SMALL)
    cpa = MODELS["cpa_vae"](data.summary(), **SMALL)
    cpa.load_state_dict({k: v for k, v in sams.state_dict().items() if k != "mask_logits"})
    b, q = passes(cpa, data)
    ones = torch.ones(4, len(data.perturbations), SMALL["latent"])
    p = Trace(4, given=q.values | {"M": ones})
    torch.testing.assert_close(
        sams.generate(p, b.condition).mean, cpa.generate(Trace(4, given=q.values), b.condition).mean
    )
    t = Trace(4, given={"E": q["E"], "M": ones})
    sams.infer_cells(t, b)
    torch.testing.assert_close(t.sites["z_basal"].distribution.mean, q.sites["z_basal"].distribution.mean)
