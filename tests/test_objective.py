from __future__ import annotations

import pytest
import torch
from torch import nn

from samslib.cells import Batch, Condition, Plate
from samslib.distributions import Beta, Normal, StraightThroughBernoulli, standard_normal
from samslib.objective import elbo, iwelbo, log_weights, plate_weights, posterior, present
from samslib.trace import Trace
from samslib.training import shared_counts


class FactorAnalysis(nn.Module):
    """x = z W + noise, with the exact posterior: every importance weight is then p(x) itself."""

    def __init__(self, W, noise, spread=1.0):
        super().__init__()
        self.W, self.noise, self.spread = W, noise, spread

    def generate(self, t, c):
        z = t.sample("z", standard_normal(len(c), len(self.W), self.W), Plate.CELL)
        return Normal(z @ self.W, self.noise * torch.ones_like(z @ self.W))

    def infer_cells(self, t, b):
        precision = torch.eye(len(self.W), dtype=self.W.dtype) + self.W @ self.W.T / self.noise**2
        mean = b.x @ self.W.T / self.noise**2 @ torch.linalg.inv(precision)
        scale = torch.linalg.inv(precision).diagonal().sqrt() * self.spread
        t.sample("z", Normal(mean, scale.expand_as(mean)), Plate.CELL)


@pytest.fixture
def linear():
    torch.manual_seed(0)
    W = torch.diag(torch.tensor([1.5, 0.5], dtype=torch.float64)) @ torch.eye(2, 4, dtype=torch.float64)
    x = torch.randn(6, 4, dtype=torch.float64)
    nothing = x[:, :0]
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(4).double(), W.T @ W + 0.49 * torch.eye(4).double()
    ).log_prob(x)
    return W, Batch(x, Condition(nothing, x[:, :1], nothing, nothing)), exact


def test_with_the_exact_posterior_every_bound_is_the_likelihood(linear):
    W, b, exact = linear
    model, q = FactorAnalysis(W, 0.7), Trace(3)
    model.infer_cells(q, b)
    terms = log_weights(model, b, q)
    torch.testing.assert_close(elbo(terms), exact)
    torch.testing.assert_close(iwelbo(terms), exact)


def test_the_importance_weighted_bound_tightens(linear):
    """With a posterior 1.5 times too wide the gap falls with K and closes (20,000 draws, so within 0.05 nats)."""
    W, b, exact = linear
    model, q = FactorAnalysis(W, 0.7, spread=1.5), Trace(20_000)
    model.infer_cells(q, b)
    terms = log_weights(model, b, q)
    gaps = []
    for K in (1, 10, 100, 20_000):
        groups = {n: v.reshape(-1, K, len(b)) for n, v in terms.items()}
        bounds = [iwelbo({n: v[i] for n, v in groups.items()}) for i in range(20_000 // K)]
        gaps.append((exact - torch.stack(bounds).mean(0)).mean().item())
    torch.testing.assert_close(elbo(terms).mean().item(), exact.mean().item() - gaps[0])
    assert gaps[0] > gaps[1] + 0.1 > gaps[2] + 0.1 and abs(gaps[3]) < 0.05


def test_a_cell_with_two_perturbations_pays_for_both():
    dose = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [2.0, 0.25, 0.0]])
    nothing = torch.zeros(3, 0)
    b = Batch(nothing, Condition(dose, nothing, nothing, nothing))
    weights = plate_weights(b, Plate.DOSE, torch.tensor([4.0, 5.0, 0.0]))
    torch.testing.assert_close(weights, torch.tensor([[0, 0, 0], [0.25, 0, 0], [0.25, 0.2, 0]]))
    small, active = present(b)
    assert active[Plate.DOSE].tolist() == [0, 1] and small.condition.dose.tolist() == dose[:, :2].tolist()


def test_an_analytic_divergence_is_the_mean_of_the_sampled_one(linear):
    """Over 20,000 draws, within 5 standard errors for each of 6 cells (chance of failing below 1e-5)."""
    W, b, _ = linear
    torch.manual_seed(0)
    model, q = FactorAnalysis(W, 0.7, spread=1.5), Trace(20_000)
    model.infer_cells(q, b)
    sampled, exact = log_weights(model, b, q)["z"], log_weights(model, b, q, analytic=True)["z"]
    assert exact.shape == sampled.shape and (exact == exact[0]).all()
    assert ((sampled.mean(0) - exact[0]).abs() < 5 * sampled.std(0) / 20_000**0.5).all()


def test_analytic_touches_only_pairs_with_a_closed_form(model, data):
    """Normals, slabs, masks of a fixed probability and Betas; a mask whose probability is latent costs nothing."""
    b = data.batch()
    torch.manual_seed(0)
    q = posterior(model, b, 3)
    counts = shared_counts(data, torch.device("cpu"), torch.float32)
    sampled, exact = (log_weights(model, b, q, counts, analytic=a) for a in (False, True))
    known = (Normal, Beta) if "pi" in q.sites else (Normal, StraightThroughBernoulli)
    closed = {n for n, s in q.sites.items() if isinstance(s.distribution, known)}
    for name in sampled:
        assert exact[name].shape == sampled[name].shape
        same = torch.allclose(exact[name], sampled[name], rtol=0, atol=1e-6)
        assert same == (name not in closed or bool((sampled[name].abs() < 1e-6).all())), name
    assert all((exact[name] <= 1e-5).all() for name in closed)
