"""Conditional VAE: doses as inputs of encoder and decoder (Sohn et al. 2015), a baseline of the SAMS-VAE paper."""

from typing import final

import torch

from samslib.cells import Batch, Condition, DataSummary, Plate
from samslib.distributions import Likelihood, standard_normal
from samslib.model import Model, seeded
from samslib.nets import DECODERS, CellEncoder
from samslib.trace import Trace
from samslib.validation import choose


@final
class ConditionalVAE(Model):
    """x ~ likelihood(decoder([z, d]), library) with z ~ N(0, I): the network is told the doses d and does the rest.

    Nothing is shared by cells but the weights, so a perturbation has neither a mask nor an embedding with a law.
    Posterior: q(z | x, d).

    Raises ValueError for an unknown likelihood or normalization.
    """

    exogenous = ("z",)
    source = "arXiv:2311.02794, baselines of section 6"

    @seeded
    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial",
        encoder_layers: int = 1, encoder_width: int = 400, decoder_layers: int = 1, decoder_width: int = 400,
        normalization: str | None = "log", *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        T, G = len(summary.perturbations), len(summary.genes)
        self.size = (T, latent)
        self.encoder = CellEncoder(summary, latent, encoder_width, encoder_layers, normalization, (T,))
        self.decoder = choose("likelihood", likelihood, DECODERS)(latent + T, G, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        z = t.sample("z", standard_normal(len(c), self.size[1], c.library), Plate.CELL)
        dose = t.widen(c.dose, self.size[0]).expand(*z.shape[:2], -1)
        return self.decoder(torch.cat([z, dose], -1), c.library)

    def infer_shared(self, t: Trace) -> None: ...

    def infer_cells(self, t: Trace, b: Batch) -> None:
        t.sample("z", self.encoder(b.x, t.widen(b.condition.dose, self.size[0])), Plate.CELL)
