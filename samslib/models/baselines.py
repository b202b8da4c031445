"""Plain baselines behind the models' contract: no latent variables, a law of x given the doses alone.

The first four are closed forms of `data.summary(train, pseudobulk=True)`, ready when made; `samslib.fit` then moves
nothing but their concentrations. The last two are networks and are trained.
"""

import warnings
from abc import abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from samslib.cells import Pseudobulk
from samslib.distributions import NegativeBinomial
from samslib.model import Batch, Condition, DataSummary, Likelihood, Model, Plate, Trace
from samslib.nets import VARIANCE_FLOOR, decoder
from samslib.validation import above

STANDARD, PERTURBENCH = "standard baseline", "arXiv:2408.10609"


class WithoutLatents(Model):
    """Abstract: nothing to infer, so every bound is the log-likelihood itself."""

    def infer_shared(self, t: Trace) -> None: ...
    def infer_cells(self, t: Trace, b: Batch) -> None: ...


class ClosedForm(WithoutLatents):
    """Abstract: x ~ NB(library * softmax(log share of the controls + D change), concentration by moments).

    Shares are those of each condition's summed counts, `pseudocount` added to every gene. `averages`: a cell has the
    mean, not the sum, of its perturbations' changes.

    Parameters
    ----------
    summary
        `data.summary(train, pseudobulk=True)`: names of the G genes and T perturbations, and each condition's summed
        counts over the training cells.
    pseudocount
        Counts added to every gene's summed count of every condition before shares are taken; above 0, as all options.

    Raises
    ------
    ValueError
        For an option that is not above 0, and for a summary without pseudobulk or without control or perturbed
        cells.
    """

    needs = ("pseudobulk",)
    averages: ClassVar[bool] = False

    def __init__(self, summary: DataSummary, pseudocount: float = 0.5):
        super().__init__(summary, vars(self) | locals())  # with the options that a subclass has set as attributes
        above(0, **self.options)
        bulk = cast(Pseudobulk, summary.pseudobulk)
        if (treated := bulk.dose.any(1)).all() or not treated.any():
            raise ValueError("Control and perturbed cells are compared; keep some of both in the training split.")
        counts = bulk.counts.double() + pseudocount
        log_share = (counts / counts.sum(1, keepdim=True)).log()
        control = log_share[~treated].mean(0)
        change = self.solve(log_share[treated] - control, bulk.dose[treated].double(), bulk.cells[treated].double())
        self.control, self.change = (nn.Buffer(value.to(summary.mean)) for value in (control, change))
        self.log_concentration = nn.Parameter(bulk.concentration.log())

    @abstractmethod
    def solve(self, fold: Tensor, dose: Tensor, cells: Tensor) -> Tensor:
        """Change of log shares that each perturbation causes.

        Parameters
        ----------
        fold
            (S, G) log fold changes against control of the S perturbed conditions of the training cells, natural
            logarithm.
        dose
            (S, T) doses of these conditions.
        cells
            (S,) number of cells of each.

        Returns
        -------
        Tensor
            (T, G) change of the log shares at a dose of 1.
        """

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        dose = nn.functional.normalize(c.touched(Plate.DOSE), p=1.0, dim=1) if self.averages else c.dose
        share = (self.control + dose @ self.change[t.rows(Plate.DOSE)]).softmax(-1)
        mean = (c.library * share + VARIANCE_FLOOR).expand(t.particles, -1, -1)
        return NegativeBinomial(mean, self.log_concentration.exp())


class ControlMean(ClosedForm):
    """No perturbation does anything.

    Parameters
    ----------
    summary
        `data.summary(train, pseudobulk=True)`.
    pseudocount
        Counts added to every gene's summed count of every condition before shares are taken; above 0.

    Raises
    ------
    ValueError
        As `ClosedForm`.
    """

    source = STANDARD

    def solve(self, fold: Tensor, dose: Tensor, cells: Tensor) -> Tensor:
        return fold.new_zeros(dose.shape[1], fold.shape[1])


class PerturbationMean(ClosedForm):
    """All perturbations and combinations do the same: the mean share over training conditions, each counted once.

    Parameters
    ----------
    summary
        `data.summary(train, pseudobulk=True)`.
    pseudocount
        Counts added to every gene's summed count of every condition before shares are taken; above 0.

    Raises
    ------
    ValueError
        As `ClosedForm`.
    """

    source, averages = STANDARD, True

    def solve(self, fold: Tensor, dose: Tensor, cells: Tensor) -> Tensor:
        return fold.exp().mean(0).log().repeat(dose.shape[1], 1)


class Additive(ClosedForm):
    """Log fold changes of single perturbations add up, each times its dose: the strong baseline for combinations.

    One that was never trained on alone counts as without effect, with a warning when the model is made.

    Parameters
    ----------
    summary
        `data.summary(train, pseudobulk=True)`.
    pseudocount
        Counts added to every gene's summed count of every condition before shares are taken; above 0.

    Raises
    ------
    ValueError
        As `ClosedForm`.
    """

    source = STANDARD

    def solve(self, fold: Tensor, dose: Tensor, cells: Tensor) -> Tensor:
        alone = dose * ((dose != 0).sum(1, keepdim=True) == 1)
        weight = (cells @ alone.square())[:, None]
        if missing := [name for name, w in zip(self.summary.perturbations, weight, strict=True) if w == 0]:
            shown = f"{len(missing)} perturbation(s), such as {missing[0]!r}"
            warnings.warn(f"{shown}, were never trained on alone; additive takes their effect as 0.", stacklevel=3)
        return (cells[:, None] * alone).T @ fold / weight.where(weight > 0, 1)


class Linear(ClosedForm):
    """Ridge regression of log fold changes on doses, without intercept; a condition weighs as many as its cells.

    Parameters
    ----------
    summary
        `data.summary(train, pseudobulk=True)`.
    ridge
        Strength of the ridge penalty, in cells; above 0. As it falls to 0 this is the additive baseline, if no
        combination is trained on.
    pseudocount
        Counts added to every gene's summed count of every condition before shares are taken; above 0.

    Raises
    ------
    ValueError
        As `ClosedForm`.

    References
    ----------
    Wu et al. (2024), PerturBench (arXiv:2408.10609), linear additive.
    """

    source = f"{PERTURBENCH}, linear additive"

    def __init__(self, summary: DataSummary, ridge: float = 1.0, pseudocount: float = 0.5):
        self.ridge = ridge
        super().__init__(summary, pseudocount)

    def solve(self, fold: Tensor, dose: Tensor, cells: Tensor) -> Tensor:
        weighted = (cells[:, None] * dose).T
        penalty = self.ridge * torch.eye(len(weighted)).to(fold)
        return torch.linalg.solve(weighted @ dose + penalty, weighted @ fold)


class LatentAdditive(WithoutLatents):
    """x ~ likelihood(decoder(D E), library): a vector a perturbation, added up before the decoder; control is at 0.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G and T.
    latent
        Number of latent axes, K; E is (T, K).
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    embedding_initial_spread
        Standard deviation of the entries of E at the start of training.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood.

    References
    ----------
    Wu et al. (2024), PerturBench (arXiv:2408.10609), latent additive.
    """

    source = f"{PERTURBENCH}, latent additive"

    def __init__(
        self, summary: DataSummary, latent: int = 100, likelihood: str = "negative_binomial", decoder_layers: int = 1,
        decoder_width: int = 400, embedding_initial_spread: float = 0.1, *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        self.embedding = nn.Parameter(embedding_initial_spread * torch.randn(len(summary.perturbations), latent))
        self.decoder = decoder(likelihood, summary, latent, decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        z = c.dose @ self.embedding[t.rows(Plate.DOSE)]
        return self.decoder(z.expand(t.particles, -1, -1), c.library)


class DecoderOnly(WithoutLatents):
    """x ~ likelihood(decoder(D), library): a network of the doses and nothing else.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G and T.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood.

    References
    ----------
    Wu et al. (2024), PerturBench (arXiv:2408.10609), decoder only.
    """

    source = f"{PERTURBENCH}, decoder only"

    def __init__(
        self, summary: DataSummary, likelihood: str = "negative_binomial",
        decoder_layers: int = 3, decoder_width: int = 400, *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        self.decoder = decoder(likelihood, summary, len(summary.perturbations), decoder_width, decoder_layers)

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        dose = t.widen(c.dose, len(self.summary.perturbations))
        return self.decoder(dose.expand(t.particles, -1, -1), c.library)
