"""Dose curves f_t: the share of a perturbation's effect that an amount of it has, 0 at dose 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from samslib.cells import DataSummary, Plate
from samslib.distributions import standard_normal
from samslib.nets import NormalTable, Trunk
from samslib.trace import Trace
from samslib.validation import choose, require


class DoseCurves(nn.Module):
    """dose (n, rows) -> f_t(dose) (n, rows), one curve a perturbation, 0 at dose 0.

    "linear": the dose itself. "sigm": sigmoid(slope dose + bias) - sigmoid(bias), and "logsigm" the same of
    log(1 + dose), with slope and bias a perturbation. "network": the sigmoid of a network of the dose and of which
    perturbation it is, for doses other than 0 (so it may jump at 0).

    Parameters
    ----------
    kind
        Which curve, as above.
    rows
        Number of perturbations, T.
    width, layers
        Units a layer, and layers, of the network, for "network" only.

    Raises
    ------
    ValueError
        For another kind.
    """

    def __init__(self, kind: str, rows: int, width: int = 128, layers: int = 2):
        super().__init__()
        self.kind, self.size = choose("dose_curve", kind, ("linear", "sigm", "logsigm", "network")), rows
        if kind == "network":
            self.trunk, self.value = Trunk((1, rows), width, layers), nn.Linear(width, 1)
        elif kind != "linear":
            self.slope, self.bias = nn.Parameter(torch.ones(rows)), nn.Parameter(torch.zeros(rows))

    def forward(self, dose: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        if self.kind == "linear":
            return dose
        if self.kind == "network":
            cell, column = dose.nonzero(as_tuple=True)
            which = torch.arange(self.size, device=dose.device)[rows][column]
            value = self.value(self.trunk(dose[cell, column, None], which)).squeeze(-1).sigmoid()
            return torch.zeros_like(dose).index_put((cell, column), value)
        slope, bias = self.slope[rows], self.bias[rows]
        amount = dose.log1p() if self.kind == "logsigm" else dose
        return (slope * amount + bias).sigmoid() - bias.sigmoid()


def _hill(u: Tensor, half: Tensor, slope: Tensor | float) -> Tensor:
    """1 / (1 + (half / u)^slope) over its value at 1, in logarithms; 0 at u = 0, where gradients are finite too."""
    log_u, log_half = u.clamp(min=torch.finfo(u.dtype).tiny).log(), half.log()
    return (logsigmoid(slope * (log_u - log_half)) - logsigmoid(-slope * log_half)).exp() * (u > 0)


def _sigmoid(u: Tensor, a: Tensor) -> Tensor:
    s, b = (1.5 + 0.7 * a[..., 0]).exp(), 2 * a[..., 1] - 1
    # sigmoid(s u + b) - sigmoid(b) = sigmoid(s u + b) sigmoid(-b) (1 - exp(-s u)), which does not cancel
    return (logsigmoid(s * u + b) - logsigmoid(s + b)).exp() * torch.expm1(-s * u) / torch.expm1(-s)


def _logsigmoid(u: Tensor, a: Tensor) -> Tensor:
    return _hill(u, 0.3 * a[..., 0].exp(), 1.5 * (0.5 * a[..., 1]).exp())


def _monotone(u: Tensor, a: Tensor) -> Tensor:
    half = torch.logspace(-3, 0, a.shape[-1]).to(u)
    return (_hill(u[..., None], half, 2.0) * (2 * a).softmax(-1)).sum(-1)


FORMS = {"sigmoid": (_sigmoid, 2), "logsigmoid": (_logsigmoid, 2), "monotone": (_monotone, 10)}  # numbers of latents


class LatentDoseCurves(nn.Module):
    """f_t(dose), a rising curve a perturbation that is inferred with its uncertainty: 0 at dose 0, 1 at its reference.

    The reference is the largest dose of a perturbation in the training cells, so that units do not matter, and effects
    and curves cannot trade scales. With u = dose / reference, f = g(u) / g(1), where g has latents a ~ N(0, 1):

    - "linear" is the dose itself, in the units of the data, without latents and without a reference.
    - "sigmoid": g = sigmoid(s u + b) - sigmoid(b), with log s = 1.5 + 0.7 a_1 and b = -1 + 2 a_2.
    - "logsigmoid": g = 1 / (1 + (c / u)^h), a sigmoid of log u, which is Hill's curve; c = 0.3 exp(a_1) and
      h = 1.5 exp(a_2 / 2).
    - "monotone": a mean of ten Hill curves of slope 2, each 1 at the reference, whose c lie a third of a decade apart
      from 0.001 to 1; their weights are the softmax of 2 a.

    Beyond the reference "linear" goes on rising, "sigmoid" and "logsigmoid" level off where g does, and "monotone" at 2
    at the most; nothing was seen there. The posterior of a is a table of Normals.

    Parameters
    ----------
    kind
        Which curve, as above.
    summary
        Names of the perturbations and their largest doses; where there are none, the reference is 1.

    Raises
    ------
    ValueError
        For another kind, and in use for a dose that is negative or no number.

    References
    ----------
    Hill (1910), The possible effects of the aggregation of the molecules of haemoglobin on its dissociation curves.
    """

    def __init__(self, kind: str, summary: DataSummary):
        super().__init__()
        self.form, self.size = choose("dose_curve", kind, {"linear": (None, 0), **FORMS})
        largest = summary.largest_dose or (0.0,) * len(summary.perturbations)
        self.reference = nn.Buffer(torch.tensor([dose or 1.0 for dose in largest]), persistent=False)
        self.table = NormalTable(len(largest), self.size, scale=0.3) if self.form else None

    def generate(self, t: Trace, rows: int) -> None:
        """Declare the prior of so many rows of the plate of perturbations."""
        if self.form:
            t.sample("curve", standard_normal(rows, self.size, self.reference), Plate.DOSE)

    def infer(self, t: Trace) -> None:
        """Declare the posterior of the rows that the pass draws."""
        if self.table is not None:
            t.sample("curve", self.table(t.rows(Plate.DOSE)), Plate.DOSE)

    def forward(self, t: Trace, dose: Tensor) -> Tensor:
        """(P, n, rows) f of doses (n, rows) in a pass."""
        if self.form is None:
            return dose
        require(bool((dose >= 0).all()), "A dose is negative or no number; give doses of 0 or above.")
        return self.form(dose / self.reference[t.rows(Plate.DOSE)], t["curve"][:, None])
