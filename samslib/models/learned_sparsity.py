"""SAMS-VAE with learned sparsity: Beta-Bernoulli masks, in the paper's code but not among its experiments."""

import torch
from torch import nn

from samslib.distributions import Bernoulli, Beta, Normal, Point, StraightThroughBernoulli, standard_normal
from samslib.model import Batch, Condition, DataSummary, Likelihood, Model, Plate, Trace
from samslib.nets import CellEncoder, decoder, effect_posterior
from samslib.validation import above, choose


class BetaBernoulliSAMSVAE(Model):
    """z = z_basal + D (E * M), where how likely a mask entry is to be on is itself inferred.

    Generative model: pi ~ Beta(mask_alpha, mask_beta) and M ~ Bernoulli(pi) for each perturbation and axis; the rest
    is SAMS-VAE. Posterior: q(pi) one value ("point") or a Beta ("beta": its parameters are exponentials, so positive;
    the published ones are free and may turn negative); q(M | pi) = Bernoulli(pi), straight-through, so that M's term
    cancels and sparsity costs through pi alone; q(E) and q(z_basal | x) as in SAMS-VAE. Training starts from pi at
    sigmoid(mask_initial_logit), or from Beta(mask_initial_alpha, mask_initial_beta).
    The published posteriors are point with either q(E), and beta with mean_field.

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
    mask_posterior
        q(pi): "point" is one value for each entry, "beta" a Beta distribution.
    mask_alpha, mask_beta
        Of the Beta prior of pi, positive; the prior mean is alpha / (alpha + beta).
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
        Log-odds of pi at the start of training, for the point posterior.
    mask_initial_alpha, mask_initial_beta
        Of the Beta posterior at the start of training, positive.
    embedding_initial_spread, embedding_initial_scale
        A mean-field q(E) starts with means drawn from N(0, spread^2) and with this standard deviation.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood, posterior or normalization, or a parameter of a Beta that is not positive.
    """

    exogenous = ("z_basal",)
    source = "code of arXiv:2311.02794"

    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial",
        posterior: str = "correlated", mask_posterior: str = "point", mask_alpha: float = 1.0, mask_beta: float = 5.0,
        embedding_scale: float = 1.0, encoder_layers: int = 1, encoder_width: int = 400, decoder_layers: int = 1,
        decoder_width: int = 400, embedding_layers: int = 2, embedding_width: int = 200, encoder_offset: bool = True,
        temperature: float = 1.0, normalization: str | None = "log", mask_initial_logit: float = 0.0,
        mask_initial_alpha: float = 1.0, mask_initial_beta: float = 1.0,
        embedding_initial_spread: float = 0.0, embedding_initial_scale: float = 1.0, *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        above(0, mask_alpha=mask_alpha, mask_beta=mask_beta)
        above(0, mask_initial_alpha=mask_initial_alpha, mask_initial_beta=mask_initial_beta)
        T = len(summary.perturbations)
        self.mask_alpha, self.mask_beta, self.embedding_scale = mask_alpha, mask_beta, embedding_scale
        self.temperature, self.latent = temperature, latent
        self.pointwise = choose("mask_posterior", mask_posterior, {"point": True, "beta": False})
        if self.pointwise:
            self.mask_logits = nn.Parameter(torch.full((T, latent), float(mask_initial_logit)))
        else:
            self.mask_log_alpha = nn.Parameter(torch.full((T, latent), mask_initial_alpha).log())
            self.mask_log_beta = nn.Parameter(torch.full((T, latent), mask_initial_beta).log())
        initial = embedding_initial_spread, embedding_initial_scale
        self.embedding = effect_posterior(posterior, T, latent, embedding_width, embedding_layers, *initial)
        self.encoder_offset, extras = encoder_offset, (latent,) if encoder_offset else ()
        self.encoder = CellEncoder(summary, latent, encoder_width, encoder_layers, normalization, *extras)
        self.decoder = decoder(likelihood, summary, latent, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        full = c.library.new_ones(c.dose.shape[1], self.latent)
        z_basal = t.sample("z_basal", standard_normal(len(c), self.latent, full), Plate.CELL)
        pi = t.sample("pi", Beta(self.mask_alpha * full, self.mask_beta * full), Plate.DOSE)
        M = t.sample("M", Bernoulli(logits=pi.logit(), validate_args=False), Plate.DOSE)
        E = t.sample("E", Normal(0 * full, self.embedding_scale * full), Plate.DOSE)
        return self.decoder(z_basal + c.dose @ (E * M), c.library)

    def infer_shared(self, t: Trace) -> None:
        rows = t.rows(Plate.DOSE)
        law: Point | Beta
        if self.pointwise:
            law = Point.probability(self.mask_logits[rows])
        else:
            law = Beta(self.mask_log_alpha[rows].exp(), self.mask_log_beta[rows].exp())
        pi = t.sample("pi", law, Plate.DOSE)
        M = t.sample("M", StraightThroughBernoulli(pi.logit(), self.temperature), Plate.DOSE)
        t.sample("E", self.embedding(rows, M), Plate.DOSE)

    def infer_cells(self, t: Trace, b: Batch) -> None:
        offset = (b.condition.dose @ (t["E"] * t["M"]),) if self.encoder_offset else ()
        t.sample("z_basal", self.encoder(b.x, *offset), Plate.CELL)
