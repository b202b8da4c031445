"""Conditional VAE: doses as inputs of encoder and decoder (Sohn et al. 2015), a baseline of the SAMS-VAE paper."""

import torch

from samslib.distributions import standard_normal
from samslib.model import Batch, Condition, DataSummary, Likelihood, Model, Plate, Trace
from samslib.nets import CellEncoder, decoder


class ConditionalVAE(Model):
    """x ~ likelihood(decoder([z, d]), library) with z ~ N(0, I): the doses d are inputs of the networks.

    Nothing is shared by cells but the weights, so a perturbation has neither a mask nor an embedding with a law.
    Posterior: q(z | x, d).

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    encoder_layers, encoder_width
        Layers, and units a layer, of the network that encodes a cell.
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    normalization
        What the encoder reads: "log" is log(1 + x) and "raw" is x, each standardised by gene with the training
        cells' mean and standard deviation; None is x as it is.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood or normalization.
    """

    exogenous = ("z",)
    source = "arXiv:2311.02794, baselines of section 6"

    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial",
        encoder_layers: int = 1, encoder_width: int = 400, decoder_layers: int = 1, decoder_width: int = 400,
        normalization: str | None = "log", *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        T = len(summary.perturbations)
        self.size = (T, latent)
        self.encoder = CellEncoder(summary, latent, encoder_width, encoder_layers, normalization, T)
        self.decoder = decoder(likelihood, summary, latent + T, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        z = t.sample("z", standard_normal(len(c), self.size[1], c.library), Plate.CELL)
        dose = t.widen(c.dose, self.size[0]).expand(*z.shape[:2], -1)
        return self.decoder(torch.cat([z, dose], -1), c.library)

    def infer_shared(self, t: Trace) -> None: ...

    def infer_cells(self, t: Trace, b: Batch) -> None:
        t.sample("z", self.encoder(b.x, t.widen(b.condition.dose, self.size[0])), Plate.CELL)
