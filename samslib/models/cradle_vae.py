"""CRADLE-VAE: SAMS-VAE with a latent for the artifact of cells that fail quality control (Baek et al. 2025)."""

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from samslib.distributions import Bernoulli, Normal, StraightThroughBernoulli, standard_normal
from samslib.model import Batch, Condition, DataSummary, Likelihood, Model, Plate, Trace
from samslib.nets import CellEncoder, NormalNet, NormalOfMask, decoder
from samslib.validation import above, at_least, choose, require


class CRADLEVAE(Model):
    """x ~ likelihood(decoder([z_basal, D (E * M), q A]), library), q the 0/1 flag of a cell that fails.

    Generative model: z_basal, M and E as in SAMS-VAE; A ~ N(0, embedding_scale^2), one artifact for all failing cells.
    An intervention sets q = 0.
    Posterior: that of SAMS-VAE ("correlated"); q(A) a network of a constant input; q(z_basal | x, D (E * M), q A).
    Training adds two things to the bound. Likelihood terms are weighed in proportion to `alpha` for passing and to
    1 - alpha for failing cells; alpha, the batch's share of failing cells unless set, gives both classes the same say.
    And auxiliary_weight * KL(q(z_basal | twin, flag switched) || q(z_basal | x, flag)), the mean over the batch, is
    subtracted: a cell and its twin, the same cell in the other class, have one basal state. A cell whose twin is all
    zero (none was found) counts as 0.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    compose
        How the three parts enter the decoder: "concatenate" them, or "sum".
    mask_prior
        Prior probability that an entry of a mask is 1, strictly between 0 and 1.
    embedding_scale
        Standard deviation of the priors of E and A.
    encoder_layers, encoder_width
        Layers, and units a layer, of the network that encodes a cell.
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    embedding_layers, embedding_width
        Layers, and units a layer, of the networks of q(E | M) and q(A).
    temperature
        Of the relaxed mask, whose gradient stands in for that of the 0/1 mask.
    normalization
        What the encoder reads: "log" is log(1 + x) and "raw" is x, each standardised by gene with the training
        cells' mean and standard deviation; None is x as it is.
    mask_initial_logit
        Log-odds, at the start of training, that an entry of a mask is 1.
    alpha
        Weight of passing against failing cells, strictly between 0 and 1; None takes the batch's share of
        failing cells.
    auxiliary_weight
        Weight of the auxiliary term, which is in nats a cell, 0 or above; with 0, no twins are needed. The
        published 0.05 to 0.5 times its batch of 512 compares with it.
    as_published
        Weights alpha and 1 - alpha as they are, not of mean 1; twins of `with_twins(..., as_published=True)`;
        both encoded with the flag switched and with two draws of what cells share; and in place of the
        divergence -1/2 sum [1 + log v1 - log v2 - (m1 - m2)^2 - v1 / v2], a sum over the batch.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood, `compose` or normalization, a `mask_prior` or `alpha` outside (0, 1), a
        negative `auxiliary_weight`, data without exactly one quality flag, and for training without twins.
    """

    exogenous = ("z_basal",)
    uses, needs = ("quality", "twins"), ("quality",)
    source = "arXiv:2409.05484"

    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial",
        compose: str = "concatenate", mask_prior: float = 0.01, embedding_scale: float = 1.0, encoder_layers: int = 1,
        encoder_width: int = 400, decoder_layers: int = 2, decoder_width: int = 400, embedding_layers: int = 4,
        embedding_width: int = 400, temperature: float = 1.0, normalization: str | None = "log",
        mask_initial_logit: float = 0.0, alpha: float | None = None, auxiliary_weight: float = 1.0,
        as_published: bool = False, *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        text = f"CRADLE-VAE reads one quality flag, and the data have {', '.join(summary.quality)}; keep one."
        require(len(summary.quality) == 1, text)
        above(0, 1, mask_prior=mask_prior, alpha=alpha)
        at_least(0, auxiliary_weight=auxiliary_weight)
        T, K = len(summary.perturbations), latent
        self.mask_prior, self.embedding_scale, self.temperature = mask_prior, embedding_scale, temperature
        self.alpha, self.auxiliary_weight, self.as_published = alpha, auxiliary_weight, as_published
        self.concatenate = choose("compose", compose, {"concatenate": True, "sum": False})
        self.mask_logits = nn.Parameter(torch.full((T, K), float(mask_initial_logit)))
        self.embedding = NormalOfMask(T, K, embedding_width, embedding_layers)
        self.artifact = NormalNet((K,), K, embedding_width, embedding_layers)
        self.encoder = CellEncoder(summary, K, encoder_width, encoder_layers, normalization, K, K)
        self.decoder = decoder(likelihood, summary, 3 * K if self.concatenate else K, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        full = self.mask_logits.new_ones(c.dose.shape[1], self.mask_logits.shape[1])
        z_basal = t.sample("z_basal", standard_normal(len(c), full.shape[1], full), Plate.CELL)
        t.sample("M", Bernoulli(self.mask_prior * full, validate_args=False), Plate.DOSE)
        t.sample("E", Normal(0 * full, self.embedding_scale * full), Plate.DOSE)
        one = full.new_ones(1, full.shape[1])
        t.sample("A", Normal(0 * one, self.embedding_scale * one), Plate.QC)
        parts = torch.broadcast_tensors(z_basal, *_shifts(t, c))
        return self.decoder(torch.cat(parts, -1) if self.concatenate else torch.stack(parts).sum(0), c.library)

    def infer_shared(self, t: Trace) -> None:
        rows = t.rows(Plate.DOSE)
        M = t.sample("M", StraightThroughBernoulli(self.mask_logits[rows], self.temperature), Plate.DOSE)
        t.sample("E", self.embedding(rows, M), Plate.DOSE)
        t.sample("A", self.artifact(M.new_ones(1, M.shape[-1])), Plate.QC)

    def infer_cells(self, t: Trace, b: Batch) -> None:
        t.sample("z_basal", self.encoder(b.x, *_shifts(t, b.condition)), Plate.CELL)

    def likelihood_weights(self, b: Batch) -> Tensor:
        failing = b.condition.qc[:, 0]
        alpha = failing.mean() if self.alpha is None else failing.new_tensor(self.alpha)
        if self.as_published:
            return torch.where(failing != 0, 1 - alpha, alpha)
        alpha = alpha.clamp(1e-6, 1 - 1e-6)  # a batch of one class weighs its cells alike
        weights = torch.where(failing != 0, 1 - alpha, alpha)
        return weights / weights.mean()

    def penalty(self, b: Batch, q: Trace) -> dict[str, Tensor]:
        if not self.auxiliary_weight:
            return {}
        if b.twin is None:
            remedy = "make them with samslib.quality.with_twins(train), or switch it off with auxiliary_weight=0"
            raise ValueError(f"CRADLE-VAE's auxiliary term needs twins; {remedy}.")
        own, switched, other = b.condition, b.condition.do(qc=1 - b.condition.qc), q
        if self.as_published:
            own, other = switched, Trace(q.particles, active=q.active)
            self.infer_shared(other)
        twin = self.encoder(b.twin, *_shifts(other, switched))
        cell = self.encoder(b.x, *_shifts(q, own))
        apart = as_published(twin, cell) if self.as_published else kl_divergence(twin, cell)
        found = (b.twin != 0).any(1)
        total = (apart.sum(-1) * found).mean(0).sum()
        return {"auxiliary": self.auxiliary_weight * (total if self.as_published else total / len(b))}


def _shifts(t: Trace, c: Condition) -> tuple[Tensor, Tensor]:
    """(P, n, K) each: what perturbations do to a cell, and what the artifact does."""
    return c.dose @ (t["E"] * t["M"]), c.qc @ t["A"]


def as_published(q1: Normal, q2: Normal) -> Tensor:
    """Elementwise -1/2 [1 + log v1 - log v2 - (m1 - m2)^2 - v1 / v2]: a divergence but for the square's scale."""
    v1, v2 = q1.variance, q2.variance
    return -0.5 * (1 + v1.log() - v2.log() - (q1.mean - q2.mean).square() - v1 / v2)
