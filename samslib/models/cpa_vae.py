"""CPA-VAE: additive perturbation effects without sparsity (Bereket & Karaletsos 2023, baselines of section 6)."""

from torch import Tensor

from samslib.distributions import Normal, standard_normal
from samslib.model import Batch, Condition, DataSummary, Likelihood, Plate, Trace
from samslib.nets import CellEncoder, NormalTable, decoder
from samslib.sparsity import DIRECT, Additive, SparseEffects


class CPAVAE(Additive):
    """z = z_basal + D E: SAMS-VAE with every mask on.

    It shares CPA's additive latent space, but has neither its adversary nor its dose curves. Posterior: q(E) a table,
    q(z_basal | x) with the cell's sampled shift D E as a second input if `encoder_offset`.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    embedding_scale
        Standard deviation of the prior of each entry of E.
    encoder_layers, encoder_width
        Layers, and units a layer, of the network that encodes a cell.
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    encoder_offset
        Whether q(z_basal) also sees the cell's sampled shift, or x alone.
    normalization
        What the encoder reads: "log" is log(1 + x) and "raw" is x, each standardised by gene with the training
        cells' mean and standard deviation; None is x as it is.
    embedding_initial_spread, embedding_initial_scale
        q(E) starts with means drawn from N(0, spread^2) and with this standard deviation.
    direct, direct_prior, direct_scale
        Whether perturbations act on few genes directly too, beyond the paper, and how, as in `SAMSVAE`.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood or normalization.
    """

    exogenous = ("z_basal",)
    source = "arXiv:2311.02794, baselines of section 6"

    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial",
        embedding_scale: float = 1.0, encoder_layers: int = 1, encoder_width: int = 400, decoder_layers: int = 1,
        decoder_width: int = 400, encoder_offset: bool = True, normalization: str | None = "log",
        embedding_initial_spread: float = 0.0, embedding_initial_scale: float = 1.0,
        direct: bool = False, direct_prior: float = 0.01, direct_scale: float = 1.0, *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        T = len(summary.perturbations)
        self.embedding_scale, self.encoder_offset = embedding_scale, encoder_offset
        self.embedding = NormalTable(T, latent, embedding_initial_spread, embedding_initial_scale)
        self.direct = SparseEffects(DIRECT, T, len(summary.genes), direct_prior, direct_scale) if direct else None
        extras = (latent,) if encoder_offset else ()
        self.encoder = CellEncoder(summary, latent, encoder_width, encoder_layers, normalization, *extras)
        self.decoder = decoder(likelihood, summary, latent, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        K = self.embedding.loc.shape[1]
        full = self.embedding.loc.new_ones(c.dose.shape[1], K)
        z_basal = t.sample("z_basal", standard_normal(len(c), K, full), Plate.CELL)
        E = t.sample("E", Normal(0 * full, self.embedding_scale * full), Plate.DOSE)
        if self.direct is None:
            return self.decoder(z_basal + c.dose @ E, c.library)
        return self.decoder(z_basal + c.dose @ E, c.library, c.dose @ self.direct.generate(t, len(full), Plate.DOSE))

    def infer_shared(self, t: Trace) -> None:
        rows = t.rows(Plate.DOSE)
        t.sample("E", self.embedding(rows), Plate.DOSE)
        if self.direct is not None:
            self.direct.infer(t, rows, Plate.DOSE)

    def infer_cells(self, t: Trace, b: Batch) -> None:
        offset = (b.condition.dose @ t["E"],) if self.encoder_offset else ()
        t.sample("z_basal", self.encoder(b.x, *offset), Plate.CELL)

    def shifts(self) -> Tensor:
        return self.embedding.loc.detach()

    def turn_shifts(self, rotation: Tensor) -> None:
        """Variances cannot turn, being diagonal: each becomes its own in the turned law."""
        variance = self.embedding.log_scale.mul(2).exp() @ rotation.square()
        self.embedding.loc.copy_(self.embedding.loc @ rotation)
        self.embedding.log_scale.copy_(variance.log() / 2)
