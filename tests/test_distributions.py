from __future__ import annotations

import numpy as np
import pytest
import scipy.stats as st
import torch

from samslib.distributions import (
    Beta,
    NegativeBinomial,
    Normal,
    Point,
    Poisson,
    StraightThroughBernoulli,
    ZeroInflatedNegativeBinomial,
)

torch.set_default_dtype(torch.float32)


@pytest.fixture
def counts():
    g = torch.Generator().manual_seed(0)
    mean = torch.rand(3, 5, 7, generator=g, dtype=torch.float64) * 9 + 0.1
    concentration = torch.rand(7, generator=g, dtype=torch.float64) * 3 + 0.2
    x = torch.poisson(mean[0], generator=g)
    return mean, concentration, x


def test_negative_binomial_is_scipys(counts):
    mean, c, x = counts
    expected = st.nbinom.logpmf(x.numpy(), c.numpy(), (c / (c + mean)).numpy())
    np.testing.assert_allclose(NegativeBinomial(mean, c).log_prob(x).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("law", [NegativeBinomial, Poisson, Normal])
def test_cell_log_prob_is_the_sum_and_has_its_gradients(law, counts):
    mean, c, x = counts
    parameters = {NegativeBinomial: (mean, c), Poisson: (mean,), Normal: (mean, mean / 3)}[law]
    leaves = [p.clone().requires_grad_() for p in parameters]
    weight = torch.linspace(0.5, 2, 15, dtype=torch.float64).reshape(3, 5)
    plain, fast = law(*leaves).log_prob(x).sum(-1), law(*leaves).cell_log_prob(x)
    torch.testing.assert_close(fast, plain, atol=1e-11, rtol=0)
    for a, b in zip(
        torch.autograd.grad((fast * weight).sum(), leaves),
        torch.autograd.grad((plain * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_negative_binomial_gradient_is_numerical(counts):
    mean, c, x = (v[..., :3] for v in counts)
    leaves = mean.clone().requires_grad_(), c.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, k: NegativeBinomial(m, k).cell_log_prob(x), leaves)


def test_negative_binomial_moments():
    """Mean and variance of 200,000 draws within 5 standard errors: fails by chance about once in a million runs."""
    torch.manual_seed(0)
    law = NegativeBinomial(torch.tensor([[[2.0, 30.0]]]), torch.tensor([0.7, 5.0]))
    x = law.sample(torch.Size([200_000])).double().reshape(-1, 2)
    n, v = len(x), law.variance.double().reshape(2)
    assert ((x.mean(0) - law.mean.reshape(2)).abs() < 5 * (v / n).sqrt()).all()
    fourth = ((x - x.mean(0)) ** 4).mean(0)
    assert ((x.var(0) - v).abs() < 5 * ((fourth - v**2) / n).sqrt()).all()


def test_mask_is_hard_with_a_soft_gradient():
    torch.manual_seed(0)
    logits = torch.tensor([[-1.0, 0.5, 2.0]], requires_grad=True)
    law = StraightThroughBernoulli(logits, temperature=0.7)
    m = law.rsample(torch.Size([20_000]))
    assert set(m.unique().tolist()) == {0.0, 1.0}
    p = torch.sigmoid(logits).detach()
    standard_error = (p * (1 - p) / 20_000).sqrt()
    assert ((m.mean(0) - p).abs() < 5 * standard_error).all()  # once in a million runs by chance
    torch.testing.assert_close(law.log_prob(m), torch.distributions.Bernoulli(logits=logits).log_prob(m.detach()))
    torch.manual_seed(1)
    (gradient,) = torch.autograd.grad(law.rsample().sum(), logits)
    torch.manual_seed(1)
    soft = torch.sigmoid((torch.rand(1, 3).logit() + logits) / 0.7)
    torch.testing.assert_close(gradient, soft * (1 - soft) / 0.7)


def test_attach_repeats_the_draw_with_its_gradient():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    noise = torch.logit(torch.rand(4, 3, dtype=torch.float64))
    relaxed = ((noise + logits) / 0.5).detach()
    again = StraightThroughBernoulli(logits, 0.5).attach(relaxed)
    assert torch.equal(again, (relaxed > 0).double())
    soft = torch.sigmoid(relaxed)
    (gradient,) = torch.autograd.grad(again.sum(), logits)
    torch.testing.assert_close(gradient, soft * (1 - soft) / 0.5)

    loc, scale = torch.randn(3, requires_grad=True), torch.rand(3, requires_grad=True)
    draw = torch.randn(3)
    law = Normal(loc, scale)
    torch.testing.assert_close(law.attach(draw), draw)
    to_loc, to_scale = torch.autograd.grad(law.attach(draw).sum(), (loc, scale))
    torch.testing.assert_close(to_loc, torch.ones(3))
    torch.testing.assert_close(to_scale, ((draw - loc) / scale).detach())


def test_beta_replays_a_draw_with_the_gradients_of_drawing_it():
    torch.manual_seed(0)
    leaves = [(torch.rand(4, 3, dtype=torch.float64) * 3 + 0.3).requires_grad_() for _ in range(2)]
    law, weight = Beta(*leaves), torch.linspace(1, 2, 60, dtype=torch.float64).reshape(5, 4, 3)
    draw = law.rsample((5,))
    again = law.attach(draw.detach())
    torch.testing.assert_close(again, draw, rtol=0, atol=0)
    wanted, got = (torch.autograd.grad((v * weight).sum(), leaves) for v in (draw, again))
    torch.testing.assert_close(got, wanted)


def test_beta_is_scipys_and_stays_off_its_ends():
    a, b, x = torch.tensor([[0.7], [5.0], [0.2]], dtype=torch.float64).expand(3, 2).unbind()
    np.testing.assert_allclose(Beta(a, b).log_prob(x), st.beta.logpdf(x, a, b), rtol=1e-10)
    torch.manual_seed(0)
    draws = Beta(torch.full((2000,), 0.01), torch.full((2000,), 0.01)).rsample()
    assert draws.logit().isfinite().all()


def test_a_point_is_a_parameter():
    value = torch.tensor([[0.3, -2.0]], requires_grad=True)
    law = Point(value)
    assert law.rsample((4,)).shape == (4, 1, 2) and (law.log_prob(torch.ones(4, 1, 2)) == 0).all()
    (law.attach(torch.zeros(4, 1, 2)).sum()).backward()
    assert torch.equal(value.grad, torch.full((1, 2), 4.0)) and torch.equal(law.mean, value)
    assert Point.probability(torch.tensor([99.0, -99.0])).mean.logit().isfinite().all()


def test_zero_inflated_negative_binomial_is_scipys(counts):
    mean, c, x = counts
    logits = torch.linspace(-6, 6, mean.numel(), dtype=torch.float64).reshape(mean.shape)
    law, forced = ZeroInflatedNegativeBinomial(mean, c, logits), logits.sigmoid().numpy()
    plain = st.nbinom(c.numpy(), (c / (c + mean)).numpy())
    expected = np.log(forced * (x.numpy() == 0) + (1 - forced) * plain.pmf(x.numpy()))
    assert (x == 0).any() and (x > 0).any()
    np.testing.assert_allclose(law.log_prob(x).numpy(), expected, atol=1e-10)
    np.testing.assert_allclose(law.cell_log_prob(x).numpy(), expected.sum(-1), atol=1e-10)
    np.testing.assert_allclose(law.mean.numpy(), (1 - forced) * plain.mean(), atol=1e-10)
    second = (1 - forced) * (plain.var() + plain.mean() ** 2)
    np.testing.assert_allclose(law.variance.numpy(), second - law.mean.numpy() ** 2, atol=1e-8)


def test_zero_inflated_negative_binomial_has_numerical_gradients_even_where_zeros_are_certain(counts):
    mean, c, x = (v[..., :3] for v in counts)
    leaves = [v.clone().requires_grad_() for v in (mean, c, torch.zeros_like(mean))]
    assert torch.autograd.gradcheck(lambda *v: ZeroInflatedNegativeBinomial(*v).cell_log_prob(x), leaves)
    extreme = torch.full_like(mean, 200.0).requires_grad_()
    for sign in (1, -1):
        law = ZeroInflatedNegativeBinomial(mean, c, sign * extreme)
        (gradient,) = torch.autograd.grad(law.cell_log_prob(x).sum(), extreme)
        assert gradient.isfinite().all() and law.log_prob(x).isfinite().all()


def test_zero_inflated_negative_binomial_draws():
    """Mean and share of zeros of 200,000 draws within 5 standard errors: fails by chance about once in a million."""
    torch.manual_seed(0)
    law = ZeroInflatedNegativeBinomial(
        torch.tensor([[[2.0, 30.0]]]), torch.tensor([0.7, 5.0]), torch.tensor([[[-1.0, 0.5]]])
    )
    x = law.sample(torch.Size([200_000])).reshape(-1, 2)
    zero = law.log_prob(torch.zeros(2)).exp().reshape(2)
    assert ((x.mean(0) - law.mean.reshape(2)).abs() < 5 * (law.variance.reshape(2) / len(x)).sqrt()).all()
    assert (((x == 0).float().mean(0) - zero).abs() < 5 * (zero * (1 - zero) / len(x)).sqrt()).all()
