"""SAMS-VAE: sparse additive mechanism shifts (Bereket & Karaletsos 2023, sections 3 and 4)."""

from typing import cast

import torch
from torch import Tensor, nn

from samslib.distributions import Bernoulli, Normal, StraightThroughBernoulli, standard_normal
from samslib.doses import LatentDoseCurves
from samslib.model import Batch, Condition, DataSummary, Likelihood, Plate, Trace
from samslib.nets import CellEncoder, NormalTable, decoder, effect_posterior
from samslib.sparsity import DIRECT, Additive, Interactions, SparseEffects, numbers, spike_slab, turn_table
from samslib.validation import above, choose, require


class SAMSVAE(Additive):
    """z = z_basal + D (E * M): a cell's state is its basal state plus masked perturbation effects.

    Generative model (paper, section 3): z_basal ~ N(0, I) for each cell; M ~ Bernoulli(mask_prior) and
    E ~ N(0, embedding_scale^2) for each perturbation and axis; x ~ likelihood(decoder(z), library).
    Posterior (section 4): q(M) straight-through Bernoulli; q(E) as `posterior` says; q(z_basal | x), which also sees
    the cell's sampled shift if `encoder_offset`.

    The defaults are ours; `SAMSVAE.paper(summary)` is the published model. What they add, beyond the paper:

    - "spike_slab": where M is 0, E is independent of the cells, and its best posterior is its prior.
    - `dense_start`: the first part of the training has a mask prior of one half. Then latent space is turned to the
      axes in which the shifts are sparsest, which changes no cell, and the strict prior takes over. `fit` does it.
    - Targets: where perturbations are guides (`summary.targets`), M and E are of targets, and a guide has a strength
      lambda with log lambda ~ N(0, strength_scale^2): z = z_basal + D (lambda E * M).
    - `dose_curve`: a dose d of perturbation t enters as f_t(d), z = z_basal + f(D) (E * M), with f_t a monotone curve
      that is inferred too; as published it is the dose itself.
    - `interactions`: a pair of perturbations that training cells have gets a sparse shift of its own, in units of what
      both have: z gains f(D_a) f(D_b) (E_pair * M_pair), with M_pair ~ Bernoulli(interaction_prior) and E_pair as E.
      Pairs are of perturbations, also where these are guides; direct effects have no such term.
    - `direct`: a perturbation also acts on few genes themselves, not through the axes: M_direct ~
      Bernoulli(direct_prior) and O ~ N(0, direct_scale^2); the logits (means, of real values) move by
      D (lambda O * M_direct).

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K. Those that are not needed are switched off, if it is generous. None takes a quarter of
        the number of perturbations, or of targets where there are any, and 30 at least; `options["latent"]` says it.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    posterior
        q(E | M): "spike_slab" is a table where M is 1 and the prior where it is 0; "mean_field" a table that does not
        see the mask; "correlated" a network of the sampled mask.
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
        The table of q(E) starts with means drawn from N(0, spread^2) and with this standard deviation.
    dense_start
        Share of the training, at its start, with a mask prior of one half; 0 for none, and no rotation.
    guides
        Whether guides of one target share mask and effects, where the data say targets; if not, each has its own.
    direct, direct_prior, direct_scale
        Whether perturbations act on genes directly too; the prior probability that one acts on a gene; and the
        standard deviation of the prior of such an effect, in natural logarithms of expression for counts.
    strength_scale
        Standard deviation of the prior of the logarithm of a guide's strength.
    dose_curve
        f_t: "linear", "sigmoid", "logsigmoid" or "monotone" (see `samslib.doses.LatentDoseCurves`). "linear" adds
        nothing to the model. For doses that are not binary take "logsigmoid": it predicted withheld doses best on
        simulated screens, whose true curves have its form (the book's page on differences).
    interactions, interaction_prior
        Whether pairs that training cells have may do more or less than add up (`samslib.sparsity.Interactions`), and
        the prior probability that one does along an axis.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood, posterior, normalization or dose curve, a probability outside (0, 1), a scale that is
        not positive, `interactions` of data without pairs, and a `dense_start` with the correlated posterior, whose
        effects cannot be turned.
    """

    exogenous = ("z_basal",)
    source = "arXiv:2311.02794, sections 3 and 4"
    published = {
        "latent": 100, "posterior": "correlated", "dense_start": 0.0, "guides": False, "direct": False,
        "encoder_width": 400, "decoder_width": 400,
    }  # fmt: skip

    def __init__(
        self, summary: DataSummary, latent: int | None = None, likelihood: str = "negative_binomial",
        posterior: str = "spike_slab", mask_prior: float = 0.01, embedding_scale: float = 1.0,
        encoder_layers: int = 1, encoder_width: int = 128, decoder_layers: int = 1, decoder_width: int = 128,
        embedding_layers: int = 2, embedding_width: int = 200, encoder_offset: bool = True, temperature: float = 1.0,
        normalization: str | None = "log", mask_initial_logit: float = 0.0, embedding_initial_spread: float = 0.0,
        embedding_initial_scale: float = 1.0, dense_start: float = 0.5, guides: bool = True, direct: bool = True,
        direct_prior: float = 0.01, direct_scale: float = 1.0, strength_scale: float = 0.5,
        dose_curve: str = "linear", interactions: bool = False, interaction_prior: float = 1e-4,
        *, seed: int | None = None,
    ):  # fmt: skip
        latent = max(30, len(summary.rows) // 4) if latent is None else latent
        super().__init__(summary, locals())
        above(0, 1, mask_prior=mask_prior, direct_prior=direct_prior, interaction_prior=interaction_prior)
        above(0, embedding_scale=embedding_scale, direct_scale=direct_scale, strength_scale=strength_scale)
        require(
            0 <= dense_start < 1, f"dense_start is {dense_start}; give a share of the training, 0 or above and below 1."
        )
        text = "has no masks that could be set; choose posterior='spike_slab' or dense_start=0"
        require(posterior != "correlated" or not dense_start, f"dense_start={dense_start}: a correlated q(E) {text}.")
        shared = guides and summary.targets != ()
        T, J = len(summary.perturbations), len(summary.rows if shared else summary.perturbations)
        self.mask_prior, self.embedding_scale, self.temperature = mask_prior, embedding_scale, temperature
        self.strength_scale, self.settles = strength_scale, dense_start
        self.slab = choose("posterior", posterior, ("spike_slab", "mean_field", "correlated")) == "spike_slab"
        if dense_start:
            self.dense = nn.Buffer(torch.tensor(True))
        self.targets = nn.Buffer(numbers(summary.targets), persistent=False) if shared else None
        self.plate = Plate.TARGET if shared else Plate.DOSE
        self.log_strength = NormalTable(T, 1, scale=0.1) if shared else None
        self.dose_curves = LatentDoseCurves(dose_curve, summary)
        self.mask_logits = nn.Parameter(torch.full((J, latent), float(mask_initial_logit)))
        initial = embedding_initial_spread, embedding_initial_scale
        kind = "mean_field" if self.slab else posterior
        self.embedding = effect_posterior(kind, J, latent, embedding_width, embedding_layers, *initial)
        self.direct = SparseEffects(DIRECT, J, len(summary.genes), direct_prior, direct_scale) if direct else None
        self.encoder_offset, extras = encoder_offset, (latent,) if encoder_offset else ()
        self.encoder = CellEncoder(summary, latent, encoder_width, encoder_layers, normalization, *extras)
        self.decoder = decoder(likelihood, summary, latent, decoder_width, decoder_layers)
        own = latent, interaction_prior, embedding_scale
        self.interactions = Interactions(summary, *own) if interactions else None

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        groups, one = self.groups(t), self.mask_logits.new_ones(c.dose.shape[1], 1)
        full = one.expand(-1, self.mask_logits.shape[1])
        mask_prior = self.mask_prior if self.settled else 0.5
        z_basal = t.sample("z_basal", standard_normal(len(c), full.shape[1], full), Plate.CELL)
        t.sample("M", Bernoulli(mask_prior * full, validate_args=False), self.plate, groups)
        t.sample("E", Normal(0 * full, self.embedding_scale * full), self.plate, groups)
        if self.log_strength is not None:
            t.sample("log_strength", Normal(0 * one, self.strength_scale * one), Plate.DOSE)
        self.dose_curves.generate(t, len(one))
        if self.interactions is not None:
            self.interactions.generate(t)
        z = z_basal + self.shift(t, c)
        if self.direct is None:
            return self.decoder(z, c.library)
        effects = self.direct.generate(t, len(one), self.plate, groups)
        return self.decoder(z, c.library, self.dose_curves(t, c.dose) @ (self.strength(t) * effects))

    def infer_shared(self, t: Trace) -> None:
        rows, groups = t.rows(Plate.DOSE), self.groups(t)
        of = rows if groups is None else groups
        if self.slab:
            laws = self.mask_logits[of], self.embedding(of), self.embedding_scale
            spike_slab(t, ("M", "E"), *laws, self.plate, groups, self.temperature)
        else:
            law = StraightThroughBernoulli(self.mask_logits[of], self.temperature)
            t.sample("E", self.embedding(of, t.sample("M", law, self.plate, groups)), self.plate, groups)
        if self.log_strength is not None:
            t.sample("log_strength", self.log_strength(rows), Plate.DOSE)
        self.dose_curves.infer(t)
        if self.interactions is not None:
            self.interactions.infer(t)
        if self.direct is not None:
            self.direct.infer(t, of, self.plate, groups)

    def infer_cells(self, t: Trace, b: Batch) -> None:
        offset = (self.shift(t, b.condition),) if self.encoder_offset else ()
        t.sample("z_basal", self.encoder(b.x, *offset), Plate.CELL)

    def groups(self, t: Trace) -> Tensor | None:
        """(rows,) number of the target of each perturbation that a pass draws; None where they have none."""
        return None if self.targets is None else self.targets[t.rows(Plate.DOSE)]

    def strength(self, t: Trace) -> Tensor | float:
        """(P, rows, 1) strength lambda of each perturbation in a pass; 1 where they have no targets."""
        return 1.0 if self.log_strength is None else t["log_strength"].exp()

    def shift(self, t: Trace, c: Condition) -> Tensor:
        """(P, n, K) shift of each cell in a pass, f(D) (lambda E * M), and of the interactions of its pairs."""
        dose = self.dose_curves(t, c.dose)
        shift = dose @ (self.strength(t) * t["E"] * t["M"])
        return shift if self.interactions is None else shift + self.interactions(t, dose)

    @property
    def settled(self) -> bool:
        return not (self.settles and self.dense)

    def advance(self, progress: float) -> bool:
        if self.settled or progress < self.settles:
            return False
        self.rotate()
        self.dense.fill_(False)
        return True

    def shifts(self) -> Tensor:
        require(
            isinstance(self.embedding, NormalTable), "A correlated q(E) has no axes to turn; choose another posterior."
        )
        return (self.mask_logits.sigmoid() * cast(NormalTable, self.embedding).loc).detach()

    def turn_shifts(self, rotation: Tensor) -> None:
        """The masks start anew (`turn_table`), and those of interactions too."""
        turn_table(self.mask_logits, cast(NormalTable, self.embedding), rotation)
        if self.interactions is not None:
            turn_table(self.interactions.effects.logits, self.interactions.effects.slab, rotation)
