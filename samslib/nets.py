"""Networks whose output is a distribution.

A trunk is a residual multilayer perceptron; a head turns its output into a law. Decoders are called with (z, library)
whether the data are counts or reals, so nothing upstream asks which; a third argument, (n, G) or (P, n, G), is added to
what the last layer gives for each gene: logits, or means of real values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, linear, softplus

from samslib.cells import DataSummary
from samslib.distributions import NegativeBinomial, Normal, Poisson, ZeroInflatedNegativeBinomial
from samslib.validation import choose, require

VARIANCE_FLOOR = 1e-4  # added to every network's variance, to every table's scale and to every count's mean


class Trunk(nn.Module):
    """h1 = a(W1 [inputs] + b1), then h = a(W h + b) + h for each further layer; a is the leaky ReLU (slope 0.01).

    The first layer's matrix is cut by input and the products are added: an input without particles is multiplied
    once, whatever their number, and an input of integers is a one-hot code, looked up instead of multiplied.

    Parameters
    ----------
    inputs
        Width of each input.
    width
        Units a layer.
    layers
        Number of layers, 1 or more.

    Raises
    ------
    ValueError
        For a number of layers or units below 1.
    """

    def __init__(self, inputs: Sequence[int], width: int, layers: int):
        super().__init__()
        require(min(layers, width) >= 1, f"A trunk needs a layer and a unit at least; got {layers} layers of {width}.")
        self.inputs = tuple(inputs)
        self.layers = nn.ModuleList(nn.Linear(sum(inputs) if i == 0 else width, width) for i in range(layers))

    @torch.no_grad()
    def rotate(self, position: int, rotation: Tensor) -> None:
        """Change the first layer so that it does to v R what it did to v, the input at this position.

        Parameters
        ----------
        position
            Which of the inputs.
        rotation
            (d, d) orthogonal R, d the width of that input.
        """
        part = cast(nn.Linear, self.layers[0]).weight.split(self.inputs, dim=1)[position]
        part.copy_(part @ rotation)

    def forward(self, *inputs: Tensor) -> Tensor:
        first = cast(nn.Linear, self.layers[0])
        parts = first.weight.split(self.inputs, dim=1)
        h: Tensor = first.bias
        for value, w in zip(inputs, parts, strict=True):
            h = h + (linear(value, w) if value.is_floating_point() else w.T[value])
        h = leaky_relu(h)
        for layer in self.layers[1:]:
            h = h + leaky_relu(layer(h))
        return h


class NormalNet(nn.Module):
    """inputs -> Normal(mean, sqrt(exp(log_var) + 1e-4)), both linear in the trunk's output.

    Parameters
    ----------
    inputs
        Width of each input.
    outputs
        Axes of the Normal.
    width, layers
        Of the trunk.
    """

    def __init__(self, inputs: Sequence[int], outputs: int, width: int, layers: int):
        super().__init__()
        self.trunk = Trunk(inputs, width, layers)
        self.mean, self.log_var = nn.Linear(width, outputs), nn.Linear(width, outputs)

    @torch.no_grad()
    def rotate(self, rotation: Tensor) -> None:
        """Turn the law's axes: the mean m becomes m R. Variances cannot turn, being diagonal; their logarithms become
        averages with the weights R^2.

        Parameters
        ----------
        rotation
            (K, K) orthogonal R.
        """
        for layer, R in ((self.mean, rotation), (self.log_var, rotation.square())):
            layer.weight.copy_(R.T @ layer.weight)
            layer.bias.copy_(layer.bias @ R)

    def forward(self, *inputs: Tensor) -> Normal:
        h = self.trunk(*inputs)
        return Normal(self.mean(h), (self.log_var(h).exp() + VARIANCE_FLOOR).sqrt())


class NormalTable(nn.Module):
    """A free Normal for every (row, axis), whatever the mask: q = N(loc, exp(log_scale) + 1e-4).

    Parameters
    ----------
    rows, columns
        Perturbations T and latent axes K.
    loc_spread, scale
        At the start, means are drawn from N(0, loc_spread^2) and the standard deviation is `scale`.
    """

    def __init__(self, rows: int, columns: int, loc_spread: float = 0.0, scale: float = 1.0):
        super().__init__()
        self.loc = nn.Parameter(loc_spread * torch.randn(rows, columns))
        self.log_scale = nn.Parameter(torch.full((rows, columns), scale).log())

    def forward(self, rows: Tensor | slice, mask: Tensor | None = None) -> Normal:
        return Normal(self.loc[rows], self.log_scale[rows].exp() + VARIANCE_FLOOR)


class NormalOfMask(nn.Module):
    """A Normal for every (row, axis), of a network of that row's mask (P, rows, K) and of which row it is.

    Parameters
    ----------
    rows, columns
        Perturbations T and latent axes K.
    width, layers
        Of its network.
    """

    def __init__(self, rows: int, columns: int, width: int, layers: int):
        super().__init__()
        self.size, self.net = rows, NormalNet((columns, rows), columns, width, layers)

    def forward(self, rows: Tensor | slice, mask: Tensor) -> Normal:
        return self.net(mask, torch.arange(self.size, device=mask.device)[rows])


def effect_posterior(
    kind: str, rows: int, columns: int, width: int, layers: int, spread: float, scale: float
) -> NormalTable | NormalOfMask:
    """q(E | M), called with (rows, M).

    Parameters
    ----------
    kind
        "mean_field", a table that does not see the mask, or "correlated", a network of it.
    rows, columns
        Perturbations T and latent axes K.
    width, layers
        Of the network.
    spread, scale
        The table's means start as draws from N(0, spread^2), and its standard deviations at `scale`.

    Raises
    ------
    ValueError
        For another kind.

    References
    ----------
    Bereket & Karaletsos 2023 (arXiv:2311.02794), section 4.
    """
    if choose("posterior", kind, ("mean_field", "correlated")) == "mean_field":
        return NormalTable(rows, columns, spread, scale)
    return NormalOfMask(rows, columns, width, layers)


class Standardize(nn.Module):
    """(f(x) - mean) / std with the training cells' statistics; f is log(1 + x), the identity, or none of it.

    Parameters
    ----------
    kind
        "log", "raw" or None, as above.
    summary
        Holds the statistics of the training cells.

    Raises
    ------
    ValueError
        For another kind, and for "log" where values have no logarithm.
    """

    def __init__(self, kind: str | None, summary: DataSummary):
        super().__init__()
        self.kind = choose("normalization", kind, ("log", "raw", None))
        if kind is not None:
            mean, std = (summary.log_mean, summary.log_std) if kind == "log" else (summary.mean, summary.std)
            text = "normalization is 'log', but the training cells hold values of -1 or below, which have no log(1 + x)"
            remedy = "choose normalization='raw', or None for values that are scaled already"
            require(kind == "raw" or (mean.isfinite() & std.isfinite()).all(), f"{text}; {remedy}.")
            self.mean, self.std = nn.Buffer(mean.clone()), nn.Buffer(std.clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.kind is None:
            return x
        return ((x.log1p() if self.kind == "log" else x) - self.mean) / self.std


class CellEncoder(nn.Module):
    """q(z | x, extras): x (n, G) is normalised and multiplied once, extras (P, n, d) are added per particle.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    width, layers
        Units a layer, and layers, of its network.
    normalization
        What the encoder reads: "log" is log(1 + x) and "raw" is x, each standardised by gene with the training
        cells' mean and standard deviation; None is x as it is.
    *extras
        Width of each further input.
    """

    def __init__(
        self, summary: DataSummary, latent: int, width: int, layers: int, normalization: str | None, *extras: int
    ):
        super().__init__()
        self.normalize = Standardize(normalization, summary)
        self.net = NormalNet((len(summary.genes), *extras), latent, width, layers)

    def forward(self, x: Tensor, *extras: Tensor) -> Normal:
        return self.net(self.normalize(x), *extras)


class NegativeBinomialDecoder(nn.Module):
    """mean = library * softmax over genes + 1e-4; one concentration a gene, shared by all cells, initially 1.

    Parameters
    ----------
    latent, genes
        Width of z, and number of genes G.
    width, layers
        Units a layer, and layers, of the trunk.
    """

    def __init__(self, latent: int, genes: int, width: int, layers: int):
        super().__init__()
        self.trunk, self.logits = Trunk((latent,), width, layers), nn.Linear(width, genes)
        self.log_concentration = nn.Parameter(torch.zeros(genes))

    def forward(self, z: Tensor, library: Tensor, direct: Tensor | float = 0.0) -> NegativeBinomial:
        share = (self.logits(self.trunk(z)) + direct).softmax(-1)
        mean = torch.addcmul(share.new_tensor(VARIANCE_FLOOR), library, share)
        return NegativeBinomial(mean, self.log_concentration.exp())


class ZeroInflatedNegativeBinomialDecoder(nn.Module):
    """`NegativeBinomialDecoder` with a second linear head, the log-odds that a count is set to zero.

    Parameters
    ----------
    latent, genes
        Width of z, and number of genes G.
    width, layers
        Units a layer, and layers, of the trunk.
    """

    def __init__(self, latent: int, genes: int, width: int, layers: int):
        super().__init__()
        self.trunk, self.logits = Trunk((latent,), width, layers), nn.Linear(width, genes)
        self.zero_logits = nn.Linear(width, genes)
        self.log_concentration = nn.Parameter(torch.zeros(genes))

    def forward(self, z: Tensor, library: Tensor, direct: Tensor | float = 0.0) -> ZeroInflatedNegativeBinomial:
        h = self.trunk(z)
        mean = library * (self.logits(h) + direct).softmax(-1) + VARIANCE_FLOOR
        return ZeroInflatedNegativeBinomial(mean, self.log_concentration.exp(), self.zero_logits(h))


class PoissonDecoder(nn.Module):
    """rate = softplus(linear): counts without a library size, as published.

    Parameters
    ----------
    latent, genes
        Width of z, and number of genes G.
    width, layers
        Units a layer, and layers, of the trunk.
    """

    def __init__(self, latent: int, genes: int, width: int, layers: int):
        super().__init__()
        self.trunk, self.rate = Trunk((latent,), width, layers), nn.Linear(width, genes)

    def forward(self, z: Tensor, library: Tensor, direct: Tensor | float = 0.0) -> Poisson:
        return Poisson(softplus(self.rate(self.trunk(z)) + direct))


class NormalDecoder(nn.Module):
    """Real-valued expression whose mean and variance both depend on z.

    Parameters
    ----------
    latent, genes
        Width of z, and number of genes G.
    width, layers
        Units a layer, and layers, of the trunk.
    """

    def __init__(self, latent: int, genes: int, width: int, layers: int):
        super().__init__()
        self.net = NormalNet((latent,), genes, width, layers)

    def forward(self, z: Tensor, library: Tensor, direct: Tensor | float = 0.0) -> Normal:
        law = self.net(z)
        return Normal(law.loc + direct, law.scale)


class NormalFixedVarianceDecoder(nn.Module):
    """Real-valued expression with one learned variance a gene, initially 1 + 1e-4.

    Parameters
    ----------
    latent, genes
        Width of z, and number of genes G.
    width, layers
        Units a layer, and layers, of the trunk.
    """

    def __init__(self, latent: int, genes: int, width: int, layers: int):
        super().__init__()
        self.trunk, self.mean = Trunk((latent,), width, layers), nn.Linear(width, genes)
        self.log_var = nn.Parameter(torch.zeros(genes))

    def forward(self, z: Tensor, library: Tensor, direct: Tensor | float = 0.0) -> Normal:
        return Normal(self.mean(self.trunk(z)) + direct, (self.log_var.exp() + VARIANCE_FLOOR).sqrt())


DECODERS = {
    "negative_binomial": NegativeBinomialDecoder,
    "poisson": PoissonDecoder,
    "normal": NormalDecoder,
    "normal_fixed_variance": NormalFixedVarianceDecoder,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomialDecoder,
}


def decoder(likelihood: str, summary: DataSummary, latent: int, width: int, layers: int) -> nn.Module:
    """The decoder of a likelihood, called with (z, library).

    Parameters
    ----------
    likelihood
        A name in `DECODERS`.
    summary
        Names of the genes.
    latent
        Width of z.
    width, layers
        Units a layer, and layers, of the trunk.

    Raises
    ------
    ValueError
        For another name.
    """
    return choose("likelihood", likelihood, DECODERS)(latent, len(summary.genes), width, layers)
