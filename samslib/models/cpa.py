"""CPA: the compositional perturbation autoencoder (Lotfollahi et al. 2023), with doses, covariates and adversaries."""

from collections import OrderedDict, defaultdict

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from samslib.distributions import Point, standard_normal
from samslib.doses import DoseCurves
from samslib.model import Adversarial, Batch, Condition, DataSummary, Likelihood, Plate, Trace
from samslib.nets import CellEncoder, Standardize, Trunk, decoder
from samslib.validation import at_least


class PointEncoder(nn.Module):
    """A deterministic encoder: x (n, G) -> all mass on one z (n, K).

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
    """

    def __init__(self, summary: DataSummary, latent: int, width: int, layers: int, normalization: str | None):
        super().__init__()
        self.normalize = Standardize(normalization, summary)
        self.trunk, self.value = Trunk((len(summary.genes),), width, layers), nn.Linear(width, latent)

    def forward(self, x: Tensor) -> Point:
        return Point(self.value(self.trunk(self.normalize(x))))


class Critic(nn.Module):
    """Reads from z (n, K) which perturbations a cell had, a yes or no each, and its level of each covariate.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    width, layers
        Units a layer, and layers, of each classifier.
    """

    def __init__(self, summary: DataSummary, latent: int, width: int, layers: int):
        super().__init__()
        levels: dict[str, list[int]] = defaultdict(list)
        for column, name in enumerate(summary.covariates):
            levels[name.split("=")[0]].append(column)
        self.levels = [columns for columns in levels.values() if len(columns) > 1]
        self.heads = nn.ModuleList(
            nn.Sequential(OrderedDict(trunk=Trunk((latent,), width, layers), logits=nn.Linear(width, size)))
            for size in (len(summary.perturbations), *map(len, self.levels))
        )

    def forward(self, z: Tensor, touched: Tensor, covariate: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Cross-entropy, a scalar in nats a cell, summed over what is read, and the logits; touched (n, T) is 0 or 1,
        covariate (n, C) one-hot."""
        logits = [head(z) for head in self.heads]
        loss = binary_cross_entropy_with_logits(logits[0], touched, reduction="none").sum(1).mean()
        for one, columns in zip(logits[1:], self.levels, strict=True):
            loss = loss + cross_entropy(one, covariate[:, columns])
        return loss, logits


class CPA(Adversarial):
    """z = z_basal + sum_t f_t(d_t) E_t + sum_c U_c: a basal state from which adversaries have driven the perturbation.

    f_t is a dose curve ("linear", "sigm", "logsigm" or "network", see `DoseCurves`), 0 at dose 0; E_t and U_c,
    one vector a perturbation and one a level of each covariate, are parameters (E is written as a latent variable with
    a single value). x ~ likelihood(decoder(z), library); published are "normal", "negative_binomial" and
    "zero_inflated_negative_binomial". The encoder sees x alone and gives one z_basal, or a Normal if `variational`;
    either way its prior is N(0, I).
    The critic has one classifier for the perturbations (a yes or no each) and one for each covariate of two levels or
    more. It lowers its cross-entropy, in nats a cell, plus `gradient_penalty` times the mean squared slope of its
    summed logits; the rest of the model is trained to raise the cross-entropy, with weight `adversary_weight`. One
    particle a step suffices unless `variational`. `FitConfig(critic=Schedule(...))` says when which part learns.

    Parameters
    ----------
    summary
        Names and statistics of the training cells, `data.summary(train)`; they fix the sizes G, T, C and Q.
    latent
        Number of latent axes, K.
    likelihood
        Law of expression given the decoder's output: "negative_binomial", "zero_inflated_negative_binomial" or
        "poisson" for counts, "normal" or "normal_fixed_variance" for real values (`samslib.nets.DECODERS`).
    dose_curve
        f_t: "linear", "sigm", "logsigm" or "network" (see `DoseCurves`).
    variational
        The encoder gives a Normal of z_basal, and not one value.
    adversary_weight
        Weight of the critic's cross-entropy in the penalty, 0 or above.
    gradient_penalty
        Weight of the mean squared slope in the critic's loss, 0 or above.
    encoder_layers, encoder_width
        Layers, and units a layer, of the network that encodes a cell.
    decoder_layers, decoder_width
        Layers, and units a layer, of the decoder's network.
    adversary_layers, adversary_width
        Layers, and units a layer, of each of the critic's classifiers.
    dose_layers, dose_width
        Layers, and units a layer, of the dose curves' network, for "network" only.
    normalization
        What the encoder reads: "log" is log(1 + x) and "raw" is x, each standardised by gene with the training
        cells' mean and standard deviation; None is x as it is.
    seed
        Of the initial weights; None draws them from the global random stream.

    Raises
    ------
    ValueError
        For an unknown likelihood, `dose_curve` or normalization, or a weight below 0.
    """

    exogenous = ("z_basal",)
    uses = ("covariates",)
    source = "doi:10.15252/msb.202211517"

    def __init__(
        self, summary: DataSummary, latent: int = 128, likelihood: str = "negative_binomial",
        dose_curve: str = "logsigm", variational: bool = False, adversary_weight: float = 1.0,
        gradient_penalty: float = 1.0, encoder_layers: int = 3, encoder_width: int = 256, decoder_layers: int = 3,
        decoder_width: int = 256, adversary_layers: int = 3, adversary_width: int = 64,
        dose_layers: int = 2, dose_width: int = 128, normalization: str | None = "log", *, seed: int | None = None,
    ):  # fmt: skip
        super().__init__(summary, locals())
        at_least(0, adversary_weight=adversary_weight, gradient_penalty=gradient_penalty)
        T, C = len(summary.perturbations), len(summary.covariates)
        self.adversary_weight, self.gradient_penalty = adversary_weight, gradient_penalty
        self.embedding = nn.Parameter(torch.randn(T, latent))
        self.covariate_embedding = nn.Parameter(torch.randn(C, latent)) if C else None
        self.dose_curves = DoseCurves(dose_curve, T, dose_width, dose_layers)
        encoder = CellEncoder if variational else PointEncoder
        self.encoder: nn.Module = encoder(summary, latent, encoder_width, encoder_layers, normalization)
        self.decoder = decoder(likelihood, summary, latent, decoder_width, decoder_layers)
        self.critic: Critic = Critic(summary, latent, adversary_width, adversary_layers)

    def embed(self, c: Condition, E: Tensor | None = None, rows: Tensor | slice = slice(None)) -> Tensor:
        """(n, K) what the condition adds to the basal state, with these embeddings of the perturbations `rows`, which
        are the columns of the doses; by default with the model's own of all T."""
        shift = self.dose_curves(c.dose, rows) @ (self.embedding if E is None else E)
        return shift if self.covariate_embedding is None else shift + c.covariate @ self.covariate_embedding

    def generate(self, t: Trace, c: Condition) -> Likelihood:
        rows = t.rows(Plate.DOSE)
        z_basal = t.sample("z_basal", standard_normal(len(c), self.embedding.shape[1], self.embedding), Plate.CELL)
        E = t.sample("E", Point(self.embedding[rows]), Plate.DOSE)
        return self.decoder(z_basal + self.embed(c, E, rows), c.library)

    def infer_shared(self, t: Trace) -> None:
        t.sample("E", Point(self.embedding[t.rows(Plate.DOSE)]), Plate.DOSE)

    def infer_cells(self, t: Trace, b: Batch) -> None:
        t.sample("z_basal", self.encoder(b.x), Plate.CELL)

    def penalty(self, b: Batch, q: Trace) -> dict[str, Tensor]:
        return {"adversary": -self.adversary_weight * self._read(b, q, self._seen(q))[0]}

    def critic_loss(self, b: Batch, q: Trace) -> Tensor:
        with torch.enable_grad():
            seen = self._seen(q).detach().requires_grad_()
            loss, logits = self._read(b, q, seen)
            slopes = (torch.autograd.grad(one.sum(), seen, create_graph=True)[0] for one in logits)
            return loss + self.gradient_penalty * torch.stack([s.square().mean() for s in slopes]).sum()

    def _read(self, b: Batch, q: Trace, seen: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The critic's cross-entropy and its logits."""
        touched = q.widen(b.condition.touched(Plate.DOSE), len(self.embedding))
        given = (part.expand(q.particles, -1, -1).flatten(0, 1) for part in (touched, b.condition.covariate))
        return self.critic(seen, *given)

    @staticmethod
    def _seen(q: Trace) -> Tensor:
        """(P n, K): every draw of the basal state, standardised so that rescaling cannot fool the critic."""
        z = q["z_basal"].flatten(0, 1)
        return (z - z.mean(0)) * (z.var(0, unbiased=False) + 1e-10).rsqrt()
