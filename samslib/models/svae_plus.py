"""SVAE+: sparse mechanism shifts of the latent prior (Lopez et al. 2023), as reimplemented for the SAMS-VAE paper."""

import torch
from torch import Tensor, nn

from samslib.distributions import Bernoulli, Beta, Normal, Point, StraightThroughBernoulli
from samslib.model import Batch, Condition, DataSummary, Likelihood, Model, Plate, Trace
from samslib.nets import CellEncoder, decoder
from samslib.validation import above


class SVAEPlus(Model):
    """z ~ N(D (M * E), I): each perturbation, one a cell, moves the prior of the whole state along a few axes.

    Generative model: pi ~ Beta(mask_alpha, mask_beta) and M ~ Bernoulli(pi) for each perturbation and axis; E is a
    parameter, written as a latent variable with a single value; x ~ likelihood(decoder(z), library). Posterior: q(pi)
    one value; q(M | pi) = Bernoulli(pi), straight-through, so that M's term cancels; q(z | x) never sees the dose.
    The defaults are those of the reimplementation; the original: `cell_masks` (M drawn for each cell),
    mask_initial_logit 5 and embedding_initial_spread 1, trained with FitConfig(analytic_kl=True, kl_warmup=steps).

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    mask_alpha, mask_beta
        Of the Beta prior of pi, positive; the prior mean is alpha / (alpha + beta).
    cell_masks
        Draw a mask for each cell, and not one for each perturbation.
    encoder_layers, encoder_width
        Layers, and units a layer, of the network that encodes a cell.
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    temperature
        Of the relaxed mask, whose gradient stands in for that of the 0/1 mask.
    normalization
        What the encoder reads: "log" is log(1 + x) and "raw" is x, each standardised by gene with the training
        cells' mean and standard deviation; None is x as it is.
    mask_initial_logit
        Log-odds of pi at the start of training.
    embedding_initial_spread
        Standard deviation of the entries of E at the start of training.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood or normalization, a parameter of the Beta that is not positive, and for cells
        with several perturbations.
    """

    takes_combinations = False
    source = "arXiv:2211.03553; arXiv:2311.02794, baselines of section 6"

    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial", mask_alpha: float = 1.0,
        mask_beta: float = 2.0, cell_masks: bool = False, encoder_layers: int = 1, encoder_width: int = 400,
        decoder_layers: int = 1, decoder_width: int = 400, temperature: float = 1.0, normalization: str | None = "log",
        mask_initial_logit: float = 0.0, embedding_initial_spread: float = 0.1, *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        above(0, mask_alpha=mask_alpha, mask_beta=mask_beta)
        T = len(summary.perturbations)
        self.mask_alpha, self.mask_beta, self.temperature = mask_alpha, mask_beta, temperature
        self.mask_plate = Plate.CELL if cell_masks else Plate.DOSE
        self.mask_logits = nn.Parameter(torch.full((T, latent), float(mask_initial_logit)))
        self.embedding = nn.Parameter(embedding_initial_spread * torch.randn(T, latent))
        self.encoder = CellEncoder(summary, latent, encoder_width, encoder_layers, normalization)
        self.decoder = decoder(likelihood, summary, latent, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        self.refuse_combinations(c)
        embedding = self.embedding[t.rows(Plate.DOSE)]
        full = torch.ones_like(embedding)
        pi = t.sample("pi", Beta(self.mask_alpha * full, self.mask_beta * full), Plate.DOSE)
        M = t.sample("M", Bernoulli(logits=self._mask_logits(pi, c), validate_args=False), self.mask_plate)
        E = t.sample("E", Point(embedding), Plate.DOSE)
        shift = M * (c.dose @ E) if self.mask_plate is Plate.CELL else c.dose @ (M * E)
        return self.decoder(t.sample("z", Normal(shift, torch.ones_like(shift)), Plate.CELL), c.library)

    def infer_shared(self, t: Trace) -> None:
        rows = t.rows(Plate.DOSE)
        pi = t.sample("pi", Point.probability(self.mask_logits[rows]), Plate.DOSE)
        if self.mask_plate is Plate.DOSE:
            t.sample("M", StraightThroughBernoulli(pi.logit(), self.temperature), Plate.DOSE)
        t.sample("E", Point(self.embedding[rows]), Plate.DOSE)

    def infer_cells(self, t: Trace, b: Batch) -> None:
        if self.mask_plate is Plate.CELL:
            law = StraightThroughBernoulli(self._mask_logits(t["pi"], b.condition), self.temperature)
            t.sample("M", law, Plate.CELL)
        t.sample("z", self.encoder(b.x), Plate.CELL)

    def _mask_logits(self, pi: Tensor, c: Condition) -> Tensor:
        """Of each perturbation, or of each cell's own perturbation (0 for a control, whose mask moves nothing)."""
        return c.touched(Plate.DOSE) @ pi.logit() if self.mask_plate is Plate.CELL else pi.logit()
