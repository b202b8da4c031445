"""`python -m samslib.models` prints every model: file, lines, parameters, sites, likelihoods, source and tests."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch

from samslib.cells import Condition, DataSummary, Pseudobulk
from samslib.model import Model
from samslib.models import BASELINES, MODELS
from samslib.nets import DECODERS
from samslib.trace import Trace

GENES, PERTURBATIONS, LATENT = 1000, 50, 20
TESTS = "contract in tests/test_models.py, published numbers in tests/test_official.py"


def example(kind: type[Model], **options: object) -> Model:
    zero, one = torch.zeros(GENES), torch.ones(GENES)
    names = tuple(f"gene_{i}" for i in range(GENES)), tuple(f"perturbation_{i}" for i in range(PERTURBATIONS))
    conditions = PERTURBATIONS + 1
    bulk = Pseudobulk(torch.ones(conditions, GENES), torch.eye(conditions, PERTURBATIONS), torch.ones(conditions), one)
    flags = ("fails",) if "quality" in kind.uses else ()
    n_cells, n_treated, n_flagged = 0, (0,) * PERTURBATIONS, (0,) * len(flags)
    summary = DataSummary(*names, (), flags, n_cells, n_treated, n_flagged, zero, one, zero, one, None, bulk)
    given = {"latent": LATENT} | options if "latent" in inspect.signature(kind).parameters else options
    return kind(summary, **given)  # type: ignore[arg-type]


def sites(model: Model) -> str:
    """name:plate of every latent variable, in the order of the generative program."""
    t = Trace(1)
    model.generate(t, Condition(torch.zeros(1, PERTURBATIONS), torch.ones(1, 1), torch.zeros(1, 0), torch.zeros(1, 1)))
    return " ".join(f"{name}:{site.plate.value}" for name, site in t.sites.items())


def likelihoods(kind: type[Model]) -> str:
    if "likelihood" not in inspect.signature(kind).parameters:
        return "negative_binomial"
    for name in DECODERS:
        example(kind, likelihood=name)  # an unknown one raises
    return " ".join(DECODERS)


def rows() -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("model", "class", "file", "lines", "parameters", "sites", "likelihoods", "source")]
    for name, kind in (MODELS | BASELINES).items():
        file, model = Path(inspect.getfile(kind)), example(kind)
        lines = len(file.read_text(encoding="utf-8").splitlines())
        size = sum(p.numel() for p in model.parameters())
        where = f"samslib/models/{file.name}"
        table.append(
            (name, kind.__name__, where, str(lines), f"{size:,}", sites(model), likelihoods(kind), kind.source)
        )
    return table


if __name__ == "__main__":
    table = rows()
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nParameters at default widths, {GENES} genes, {PERTURBATIONS} perturbations, latent {LATENT}.")
    print(f"Tests: {TESTS}.")
