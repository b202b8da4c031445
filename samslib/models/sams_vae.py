"""SAMS-VAE: sparse additive mechanism shifts (Bereket & Karaletsos 2023, sections 3 and 4)."""

import torch
from torch import nn

from samslib.distributions import Bernoulli, Normal, StraightThroughBernoulli, standard_normal
from samslib.model import Batch, Condition, DataSummary, Likelihood, Model, Plate, Trace
from samslib.nets import CellEncoder, decoder, effect_posterior
from samslib.validation import above


class SAMSVAE(Model):
    """z = z_basal + D (E * M): a cell's state is its basal state plus masked perturbation effects.

    Generative model (paper, section 3): z_basal ~ N(0, I) for each cell; M ~ Bernoulli(mask_prior) and
    E ~ N(0, embedding_scale^2) for each perturbation and axis; x ~ likelihood(decoder(z), library).
    Posterior (section 4): q(M) straight-through Bernoulli; q(E) a table ("mean_field") or a network of the sampled
    mask ("correlated"); q(z_basal | x), which also sees the cell's sampled shift D (E * M) if `encoder_offset`.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    posterior
        q(E): "correlated" is a network of the sampled mask, "mean_field" a table that does not see it.
    mask_prior
        Prior probability that an entry of a mask is 1, strictly between 0 and 1.
    embedding_scale
        Standard deviation of the prior of each entry of E.
    encoder_layers, encoder_width
        Layers, and units a layer, of the network that encodes a cell.
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    embedding_layers, embedding_width
        Layers, and units a layer, of the network of a correlated posterior.
    encoder_offset
        Whether q(z_basal) also sees the cell's sampled shift, or x alone.
    temperature
        Of the relaxed mask, whose gradient stands in for that of the 0/1 mask.
    normalization
        What the encoder reads: "log" is log(1 + x) and "raw" is x, each standardised by gene with the training
        cells' mean and standard deviation; None is x as it is.
    mask_initial_logit
        Log-odds, at the start of training, that an entry of a mask is 1.
    embedding_initial_spread, embedding_initial_scale
        A mean-field q(E) starts with means drawn from N(0, spread^2) and with this standard deviation.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood, posterior or normalization, or a `mask_prior` outside (0, 1).
    """

    exogenous = ("z_basal",)
    source = "arXiv:2311.02794, sections 3 and 4"

    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial",
        posterior: str = "correlated", mask_prior: float = 0.01, embedding_scale: float = 1.0,
        encoder_layers: int = 1, encoder_width: int = 400, decoder_layers: int = 1, decoder_width: int = 400,
        embedding_layers: int = 2, embedding_width: int = 200, encoder_offset: bool = True, temperature: float = 1.0,
        normalization: str | None = "log", mask_initial_logit: float = 0.0,
        embedding_initial_spread: float = 0.0, embedding_initial_scale: float = 1.0, *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        above(0, 1, mask_prior=mask_prior)
        T = len(summary.perturbations)
        self.mask_prior, self.embedding_scale, self.temperature = mask_prior, embedding_scale, temperature
        self.mask_logits = nn.Parameter(torch.full((T, latent), float(mask_initial_logit)))
        initial = embedding_initial_spread, embedding_initial_scale
        self.embedding = effect_posterior(posterior, T, latent, embedding_width, embedding_layers, *initial)
        self.encoder_offset, extras = encoder_offset, (latent,) if encoder_offset else ()
        self.encoder = CellEncoder(summary, latent, encoder_width, encoder_layers, normalization, *extras)
        self.decoder = decoder(likelihood, summary, latent, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        T, K = c.dose.shape[1], self.mask_logits.shape[1]
        full = self.mask_logits.new_ones(T, K)
        z_basal = t.sample("z_basal", standard_normal(len(c), K, full), Plate.CELL)
        M = t.sample("M", Bernoulli(self.mask_prior * full, validate_args=False), Plate.DOSE)
        E = t.sample("E", Normal(0 * full, self.embedding_scale * full), Plate.DOSE)
        return self.decoder(z_basal + c.dose @ (E * M), c.library)

    def infer_shared(self, t: Trace) -> None:
        rows = t.rows(Plate.DOSE)
        M = t.sample("M", StraightThroughBernoulli(self.mask_logits[rows], self.temperature), Plate.DOSE)
        t.sample("E", self.embedding(rows, M), Plate.DOSE)

    def infer_cells(self, t: Trace, b: Batch) -> None:
        offset = (b.condition.dose @ (t["E"] * t["M"]),) if self.encoder_offset else ()
        t.sample("z_basal", self.encoder(b.x, *offset), Plate.CELL)
