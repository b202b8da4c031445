"""`python -m samsbook.models` prints every model: file, size, what it takes and uses, sites, likelihoods and source."""

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


def example(kind: type[Model]) -> Model:
    """A model of this kind at its default widths, for 1,000 genes, 50 perturbations and 20 latent axes.

    Parameters
    ----------
    kind
        Class of the model.

    Returns
    -------
    Model
        An untrained model.
    """
    zero, one = torch.zeros(GENES), torch.ones(GENES)
    names = tuple(f"gene_{i}" for i in range(GENES)), tuple(f"perturbation_{i}" for i in range(PERTURBATIONS))
    conditions = PERTURBATIONS + 1
    bulk = Pseudobulk(torch.ones(conditions, GENES), torch.eye(conditions, PERTURBATIONS), torch.ones(conditions), one)
    flags = ("fails",) if "quality" in kind.needs else ()
    n_cells, n_treated, n_flagged = 0, (0,) * PERTURBATIONS, (0,) * len(flags)
    summary = DataSummary(*names, (), flags, n_cells, n_treated, n_flagged, zero, one, zero, one, None, bulk)
    return kind.paper(summary, **kind.accepted({"latent": LATENT}))


def sites_and_law(model: Model) -> tuple[str, str]:
    """Latent variables and likelihood of a model.

    Parameters
    ----------
    model
        The model, of the sizes of `example`.

    Returns
    -------
    tuple
        name:plate of every latent variable, in the order of the generative program; and the class of the likelihood.
    """
    t, flags = Trace(1), torch.zeros(1, len(model.summary.quality))
    law = model.generate(t, Condition(torch.zeros(1, PERTURBATIONS), torch.ones(1, 1), torch.zeros(1, 0), flags))
    return " ".join(f"{name}:{site.plate.value}" for name, site in t.sites.items()), type(law).__name__


def rows() -> list[tuple[str, ...]]:
    """The table of models.

    Returns
    -------
    list
        The heading, then a row of texts a model.
    """
    table: list[tuple[str, ...]] = [
        ("model", "class", "file", "lines", "parameters", "combinations", "uses", "sites", "likelihoods", "source")
    ]
    for name, kind in (MODELS | BASELINES).items():
        file, model = Path(inspect.getfile(kind)), example(kind)
        lines, size = len(file.read_text(encoding="utf-8").splitlines()), sum(p.numel() for p in model.parameters())
        sites, law = sites_and_law(model)
        choices = " ".join(DECODERS) if "likelihood" in model.options else law
        takes = "yes" if kind.takes_combinations else "no", " ".join(kind.uses) or "-"
        where = f"samslib/models/{file.name}", str(lines), f"{size:,}"
        table.append((name, kind.__name__, *where, *takes, sites, choices, kind.source))
    return table


if __name__ == "__main__":
    table = rows()
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\nParameters at default widths, {GENES} genes, {PERTURBATIONS} perturbations, latent {LATENT}.")
    print(f"Tests: {TESTS}.")
