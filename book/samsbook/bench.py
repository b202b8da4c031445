"""Seconds a training step, beside a textbook version of the same step in the same run (`make bench`).

The textbook step computes the same loss from the same equations in the plainest way: every latent of every perturbation
is drawn, one-hot codes are multiplied, the encoder sees a copy of x for each particle, the negative binomial is its
formula over (particles, cells, genes), and the counts that nobody uses are drawn as well, as the published
implementation does. Shapes are the paper's Replogle shapes. Ratios, not seconds, are what compares between machines.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.distributions import Bernoulli, Gamma, Normal, Poisson
from torch.nn.functional import one_hot

from samslib.cells import Batch, Condition, DataSummary, Plate
from samslib.models import MODELS
from samslib.training import FitConfig, TrainingStep

GENES, PERTURBATIONS, CELLS, PARTICLES, LATENT, WIDTH = 1187, 722, 512, 5, 100, 400


def example(
    device: str, genes: int = GENES, perturbations: int = PERTURBATIONS, cells: int = CELLS
) -> tuple[DataSummary, Batch, torch.Tensor]:
    """Counts and one-hot doses drawn at random, with 100 cells a perturbation in the training split.

    Parameters
    ----------
    device
        Where the batch lies, such as "cpu".
    genes, perturbations, cells
        Sizes; by default the Replogle shapes of the paper and its batch of 512 cells.

    Returns
    -------
    tuple
        Summary of the data, batch, and (T,) numbers of training cells of each perturbation.
    """
    torch.manual_seed(0)
    zero, one = torch.zeros(genes), torch.ones(genes)
    summary = DataSummary(
        genes=tuple(f"g{i}" for i in range(genes)), perturbations=tuple(f"p{i}" for i in range(perturbations)),
        covariates=(), quality=(), n_cells=100 * perturbations, n_treated=(100,) * perturbations, n_flagged=(),
        mean=zero, std=one, log_mean=zero, log_std=one,
    )  # fmt: skip
    x = torch.poisson(3 * torch.rand(cells, genes))
    dose = one_hot(torch.randint(0, perturbations, (cells,)), perturbations).float()
    nothing = x[:, :0]
    batch = Batch(x, Condition(dose, x.sum(1, keepdim=True), nothing, nothing)).to(device)
    return summary, batch, torch.full((perturbations,), 100.0, device=device)


def textbook_loss(model, batch, counts):
    """The same loss for SAMS-VAE with the correlated posterior, or for CPA-VAE, from their equations.

    Parameters
    ----------
    model
        A model of one of the two kinds.
    batch
        Cells, x (n, G) and one-hot doses (n, T).
    counts
        (T,) number of training cells of each perturbation, by which the terms of its latents are divided.

    Returns
    -------
    Tensor
        The loss, a scalar with gradients.
    """
    x, dose, library = batch.x, batch.condition.dose, batch.condition.library
    P, n, T = PARTICLES, len(x), dose.shape[1]
    terms = []
    shared = []
    if hasattr(model, "mask_logits"):
        logits = model.mask_logits.expand(P, -1, -1)
        u = torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)
        soft = torch.sigmoid(torch.logit(u) + logits)
        M = soft.round().detach() + (soft - soft.detach())
        shared.append(Bernoulli(probs=torch.full_like(M, 0.01)).log_prob(M) - Bernoulli(logits=logits).log_prob(M))
        codes = torch.eye(T, device=x.device).expand(P, -1, -1)
        q_E = plain_normal(model.embedding.net, torch.cat([M, codes], -1))
        E = q_E.rsample()
        effect = M * E
    else:
        q_E = Normal(model.embedding.loc, model.embedding.log_scale.exp() + 1e-4)
        E = effect = q_E.rsample((P,))
    shared.append(Normal(torch.zeros_like(E), torch.ones_like(E)).log_prob(E) - q_E.log_prob(E))
    offset = dose @ effect
    normal = ((1 + x).log() - model.encoder.normalize.mean) / model.encoder.normalize.std
    q_z = plain_normal(model.encoder.net, torch.cat([normal.expand(P, -1, -1), offset], -1))
    z = q_z.rsample()
    terms.append((Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z) - q_z.log_prob(z)).sum(-1))
    h = plain_trunk(model.decoder.trunk, (z + offset).reshape(P * n, -1)).reshape(P, n, -1)
    mean = library * torch.softmax(model.decoder.logits(h), -1) + 1e-4
    c = model.decoder.log_concentration.exp()
    with torch.no_grad():
        Poisson(Gamma(c.expand_as(mean), c / mean).sample()).sample()
    rate = c / mean
    log_prob = c * rate.log() + torch.lgamma(c + x) - torch.lgamma(c) - torch.lgamma(x + 1) - (c + x) * (1 + rate).log()
    terms.append(log_prob.sum(-1))
    weights = (dose != 0) / counts
    terms += [term.sum(-1) @ weights.T for term in shared]
    return -sum(terms).mean()


def plain_trunk(trunk, h):
    """The layers of a trunk, one after another, with residual connections from the second on.

    Parameters
    ----------
    trunk
        The network whose layers are taken.
    h
        (rows, inputs) values.

    Returns
    -------
    Tensor
        (rows, width) values.
    """
    for i, layer in enumerate(trunk.layers):
        out = torch.nn.functional.leaky_relu(layer(h))
        h = out if i == 0 else h + out
    return h


def plain_normal(net, inputs):
    """The Normal distribution that a network gives.

    Parameters
    ----------
    net
        The network, with its trunk, mean and log variance.
    inputs
        (..., inputs) values.

    Returns
    -------
    Normal
        (..., K); 1e-4 is added to its variance.
    """
    h = plain_trunk(net.trunk, inputs.reshape(-1, inputs.shape[-1])).reshape(*inputs.shape[:-1], -1)
    return Normal(net.mean(h), (net.log_var(h).exp() + 1e-4).sqrt())


def seconds(step: Callable[[Batch], Any], batch: Batch) -> float:
    """How long one step takes.

    Parameters
    ----------
    step
        The step, a function of the batch.
    batch
        The cells; if they lie on a GPU, its work is waited for before and after.

    Returns
    -------
    float
        Seconds.
    """
    if batch.x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(batch)
    if batch.x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(model, batch: Batch, counts: torch.Tensor, steps: int) -> tuple[float, float]:
    """Median seconds of a textbook step and of one of ours; they take turns, and the first two of each warm up.

    Parameters
    ----------
    model
        SAMS-VAE or CPA-VAE; both kinds of step train it.
    batch
        The cells of every step.
    counts
        (T,) number of training cells of each perturbation.
    steps
        Number of timed steps of each kind.

    Returns
    -------
    tuple
        Seconds of the textbook step, and of ours.
    """
    config = FitConfig.paper(particles=PARTICLES)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    def textbook(batch):
        optimizer.zero_grad()
        textbook_loss(model, batch, counts).backward()
        optimizer.step()

    ours = TrainingStep(model, config, {Plate.DOSE: counts})
    times = [(seconds(textbook, batch), seconds(ours, batch)) for _ in range(steps + 2)]
    plain, our = zip(*times[2:], strict=True)
    return statistics.median(plain), statistics.median(our)


def main() -> None:
    """Read the command line, time both kinds of step for each model, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of each kind")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    summary, batch, counts = example(options.device)
    print(f"{GENES} genes, {PERTURBATIONS} perturbations, batch {CELLS}, {PARTICLES} particles, latent {LATENT}, "
          f"width {WIDTH}; {options.device}, {options.threads} thread(s), median of {options.steps} steps")  # fmt: skip
    print(f"{'model':<12}{'textbook s':>12}{'samslib s':>12}{'ratio':>8}")
    for name in ("sams_vae", "cpa_vae"):  # those that the textbook step is written for
        kind = MODELS[name]
        torch.manual_seed(1)
        model = kind.paper(summary, latent=LATENT).to(options.device)
        plain, ours = compare(model, batch, counts, options.steps)
        print(f"{name:<12}{plain:>12.3f}{ours:>12.3f}{ours / plain:>8.2f}")


if __name__ == "__main__":
    main()
