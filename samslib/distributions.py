"""Laws of counts, reals and masks, with the two operations that the bounds need.

`attach(draw)` returns a given draw as a function of the law's parameters (the reparameterisation with its noise held
fixed), so that numbers computed elsewhere can be replayed with their gradients. `cell_log_prob(x)` sums over genes
and is the fast path of a likelihood: whatever depends on the observed counts alone is computed once for all particles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli as Bernoulli
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.nn.functional import logsigmoid


class Likelihood(Distribution):
    """What `Model.generate` returns: a law over (P, n, G) that can score cells and draw them.

    P is the number of particles, n of cells, G of genes. Its `support` is that of `torch.distributions`: discrete for
    counts, real for real values.
    """

    def cell_log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of each cell, or log-density.

        Parameters
        ----------
        x
            (n, G) expression.

        Returns
        -------
        Tensor
            (P, n) nats, summed over genes.
        """
        return self.log_prob(x).sum(-1)


class Normal(torch.distributions.Normal, Likelihood):
    """Normal(loc, scale), for latents and for real-valued expression.

    Parameters
    ----------
    loc
        Mean; of any shape, (P, n, G) for expression.
    scale
        Standard deviation, positive; of a shape that broadcasts with `loc`.
    """

    def __init__(self, loc, scale):
        super().__init__(loc, scale, validate_args=False)

    def attach(self, draw: Tensor) -> Tensor:
        """A given draw as a function of the parameters, its noise (draw - loc) / scale held fixed.

        Parameters
        ----------
        draw
            A draw of this law, of the law's shape.

        Returns
        -------
        Tensor
            The same numbers, with the gradient of the reparameterisation.
        """
        return self.loc + self.scale * ((draw - self.loc) / self.scale).detach()


def inside_unit(p: Tensor) -> Tensor:
    """A probability kept off 0 and 1 by one rounding step, where its logarithms would be infinite.

    Parameters
    ----------
    p
        Probabilities, of any shape.

    Returns
    -------
    Tensor
        Of the same shape, in [eps, 1 - eps], with eps that of the type of `p`.
    """
    tiny = torch.finfo(p.dtype).eps
    return p.clamp(tiny, 1 - tiny)


class Beta(torch.distributions.Beta):
    """Beta(alpha, beta) of a probability; draws stay off 0 and 1.

    Parameters
    ----------
    alpha, beta
        The two concentrations, positive; of any two shapes that broadcast.
    """

    def __init__(self, alpha: Tensor, beta: Tensor):
        super().__init__(alpha, beta, validate_args=False)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return inside_unit(super().rsample(sample_shape))

    def attach(self, draw: Tensor) -> Tensor:
        """A given draw as a function of the parameters, by implicit reparameterisation: it moves so that its quantile
        stays.

        Parameters
        ----------
        draw
            A draw of this law, between 0 and 1; of a shape to which the concentrations broadcast.

        Returns
        -------
        Tensor
            The same numbers, with the gradient of the reparameterisation.

        References
        ----------
        Figurnov et al. (2018), Implicit reparameterization gradients.
        """
        a, b = (c.expand(draw.shape) for c in (self.concentration1, self.concentration0))
        with torch.no_grad():
            pair, both = torch.stack([draw, 1 - draw], -1), torch.stack([a, b], -1)
            slope = torch._dirichlet_grad(pair, both, both.sum(-1, keepdim=True).expand_as(both))
            to_a, to_b = slope[..., 0] * (1 - draw), -slope[..., 1] * draw
        return draw.detach() + to_a * (a - a.detach()) + to_b * (b - b.detach())


class Point(Distribution):
    """All mass on one value: a parameter written as a latent variable. Its log-density counts as 0, as published.

    Parameters
    ----------
    value
        The value; of any shape, which is that of the law.
    """

    arg_constraints = {"value": constraints.real}
    has_rsample = True

    def __init__(self, value: Tensor):
        self.value = value
        super().__init__(value.shape, validate_args=False)

    @staticmethod
    def probability(logits: Tensor) -> Point:
        """All mass on sigmoid(logits), kept off 0 and 1.

        Parameters
        ----------
        logits
            Log-odds of the probability, of any shape.

        Returns
        -------
        Point
            The law, of the same shape.
        """
        return Point(inside_unit(logits.sigmoid()))

    @property
    def mean(self) -> Tensor:
        return self.value

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        return self.value.expand(self._extended_shape(sample_shape))

    def attach(self, draw: Tensor) -> Tensor:
        return self.value.expand(draw.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.zeros_like(value)


class StraightThroughBernoulli(Bernoulli):
    """A 0/1 draw whose gradient is that of its sigmoid relaxation.

    With u uniform, soft = sigmoid((logit u + logits) / temperature) and hard = round(soft): the value is hard, the
    gradient that of soft. `log_prob` is the Bernoulli log-mass at the value, not the relaxed density, so the
    Kullback-Leibler term also reaches the logits through the value.
    A draw is represented for replaying by its relaxed logit, (logit u + logits) / temperature.

    Parameters
    ----------
    logits
        Log-odds of a 1; of any shape, which is that of the law, (T, K) for a mask of T perturbations and K latent axes.
    temperature
        Of the relaxation, positive; the lower, the closer its gradient is to that of a step.

    References
    ----------
    Bengio et al. (2013), Estimating or propagating gradients through stochastic neurons for conditional computation;
    Jang et al. (2017), Categorical reparameterization with Gumbel-Softmax.
    """

    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float = 1.0):
        super().__init__(logits=logits, validate_args=False)
        self.temperature = temperature

    def _harden(self, noise: Tensor) -> Tensor:
        soft = torch.sigmoid((noise + self.logits) / self.temperature)
        return soft.round().detach() + (soft - soft.detach())

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        return self._harden(torch.logit(inside_unit(u)))

    def attach(self, draw: Tensor) -> Tensor:
        """A given draw as a function of the logits, its noise logit u held fixed.

        Parameters
        ----------
        draw
            The relaxed logit of the draw, (logit u + logits) / temperature; of a shape to which the logits broadcast.

        Returns
        -------
        Tensor
            The 0/1 draw, with the gradient of its relaxation.
        """
        return self._harden((draw * self.temperature - self.logits).detach())

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.logits - torch.nn.functional.softplus(self.logits)


class Slab(Normal):
    """q(E | M) of a spike and slab: N(loc, scale) where the mask M is 1, and the prior where it is 0.

    Where the mask is 0, E has no effect and the best q(E | M) is its prior. A draw is of the slab all the same: there
    it is a placeholder, whose ratio p / q is 1 and which the straight-through gradient of M needs.

    Parameters
    ----------
    loc, scale
        (T, K) mean and standard deviation of the slab.
    mask
        (P, T, K) the sampled mask.
    probability
        (T, K) q(M = 1), which weighs the divergence.
    prior
        The prior of E, over (T, K).

    References
    ----------
    Mitchell & Beauchamp (1988), Bayesian variable selection in linear regression; Titsias & Lazaro-Gredilla (2011),
    Spike and slab variational inference for multi-task and multiple kernel learning.
    """

    def __init__(self, loc: Tensor, scale: Tensor, mask: Tensor, probability: Tensor, prior: Normal):
        super().__init__(loc, scale)
        self.mask, self.probability, self.prior = mask, probability, prior

    def log_prob(self, value: Tensor) -> Tensor:
        return self.mask * super().log_prob(value) + (1 - self.mask) * self.prior.log_prob(value)


@register_kl(Slab, torch.distributions.Normal)
def _of_slab(q: Slab, p: Normal) -> Tensor:
    return q.probability * kl_divergence(Normal(q.loc, q.scale), p)


@register_kl(StraightThroughBernoulli, Bernoulli)
def _of_mask(q: StraightThroughBernoulli, p: Bernoulli) -> Tensor:
    return kl_divergence(Bernoulli(logits=q.logits, validate_args=False), p)


class Poisson(torch.distributions.Poisson, Likelihood):
    """Poisson(rate) over counts.

    Parameters
    ----------
    rate
        (P, n, G) mean, positive.
    """

    def __init__(self, rate: Tensor):
        super().__init__(rate, validate_args=False)

    def cell_log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of each cell; log x! is computed once for all particles.

        Parameters
        ----------
        x
            (n, G) counts.

        Returns
        -------
        Tensor
            (P, n) nats, summed over genes.
        """
        return (torch.xlogy(x, self.rate) - self.rate).sum(-1) - torch.lgamma(x + 1).sum(-1)


class _CountsTimesLogs(torch.autograd.Function):
    """sum_g [x log m - (x + c) log(m + c)], the part of log NB that depends on the particle, (P, n).

    Written as one function, a particle at a time, because its temporaries then stay in the processor's cache: the
    same formula left to automatic differentiation keeps six arrays of (P, n, G) alive.
    """

    @staticmethod
    def forward(ctx, mean: Tensor, concentration: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(mean, concentration, x)
        both = x + concentration
        return torch.stack(
            [torch.linalg.vecdot(x, m.log()) - torch.linalg.vecdot(both, (m + concentration).log_()) for m in mean]
        )

    @staticmethod
    def backward(ctx, grad: Tensor):
        mean, concentration, x = ctx.saved_tensors
        both = x + concentration
        to_mean, to_concentration = torch.empty_like(mean), torch.zeros_like(concentration)
        for p, (m, g) in enumerate(zip(mean, grad, strict=True)):
            total = m + concentration
            ratio = both / total
            torch.div(x, m, out=to_mean[p]).sub_(ratio).mul_(g[:, None])
            to_concentration -= g @ total.log_().add_(ratio)
        return to_mean, to_concentration, None


class NegativeBinomial(Likelihood):
    """Counts with mean m and variance m + m^2 / c, c the concentration (one a gene).

    log p(x) = lgamma(x+c) - lgamma(c) - lgamma(x+1) + c log(c / (c+m)) + x log(m / (c+m)),
    the Gamma-Poisson mixture of the paper's likelihood for counts.

    Parameters
    ----------
    mean
        (P, n, G) mean m in counts, positive.
    concentration
        (G,) concentration c, positive; the larger, the closer to a Poisson law.
    """

    arg_constraints = {"mean": constraints.positive, "concentration": constraints.positive}
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, concentration: Tensor):
        self._mean, self.concentration = mean, concentration
        super().__init__(mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self._mean

    @property
    def variance(self) -> Tensor:
        return self._mean + self._mean.square() / self.concentration

    def _without_mean(self, x: Tensor) -> Tensor:
        """The part that depends on the count and the gene alone: once a batch, whatever the number of particles."""
        c = self.concentration
        return torch.lgamma(x + c) - torch.lgamma(c) - torch.lgamma(x + 1) + c * c.log()

    def log_prob(self, value: Tensor) -> Tensor:
        m, c = self._mean, self.concentration
        return self._without_mean(value) + value * m.log() - (value + c) * (m + c).log()

    def cell_log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of each cell; equals log_prob(x).sum(-1).

        Parameters
        ----------
        x
            (n, G) counts.

        Returns
        -------
        Tensor
            (P, n) nats, summed over genes.
        """
        return _CountsTimesLogs.apply(self._mean, self.concentration, x) + self._without_mean(x).sum(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            c = self.concentration.expand(shape)
            return torch.poisson(torch._standard_gamma(c) * (self._mean / c))


class ZeroInflatedNegativeBinomial(Likelihood):
    """A negative binomial count that is set to zero with probability sigmoid(zero_logits), for each gene and cell.

    Parameters
    ----------
    mean
        (P, n, G), of the count before it is set to zero; that of this law is (1 - sigmoid(zero_logits)) times it.
    concentration
        (G,) concentration of the count, positive.
    zero_logits
        (P, n, G) log-odds of the zero.

    References
    ----------
    Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics (scVI).
    """

    arg_constraints = {"zero_logits": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, mean: Tensor, concentration: Tensor, zero_logits: Tensor):
        self.counts, self.zero_logits = NegativeBinomial(mean, concentration), zero_logits
        super().__init__(mean.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return torch.sigmoid(-self.zero_logits) * self.counts.mean

    @property
    def variance(self) -> Tensor:
        kept = torch.sigmoid(-self.zero_logits)
        return kept * (self.counts.variance + (1 - kept) * self.counts.mean.square())

    def log_prob(self, value: Tensor) -> Tensor:
        counted = logsigmoid(-self.zero_logits) + self.counts.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.zero_logits), counted), counted)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        with torch.no_grad():
            x = self.counts.sample(sample_shape)
            return x * torch.bernoulli(torch.sigmoid(-self.zero_logits).expand(x.shape))


def standard_normal(rows: int, columns: int, like: Tensor) -> Normal:
    """Standard normal law over a table, N(0, 1) in each entry.

    Parameters
    ----------
    rows, columns
        Size of the table: (n, K) for the latents of n cells on K axes.
    like
        A tensor whose type and device the law takes.

    Returns
    -------
    Normal
        The law, of shape (rows, columns).
    """
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return Normal(zero.expand(rows, columns), torch.ones_like(zero).expand(rows, columns))
