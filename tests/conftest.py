"""What several tests need: small data with every kind of column, and small models of it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import multivariate_normal

import samslib
from samslib.cells import Plate
from samslib.distributions import Normal, standard_normal
from samslib.training import prepare

GPU = torch.cuda.is_available()
# The numbers that tests expect are a processor's: "auto" is one here, and test_gpu.py asks for the GPU by its name.
torch.cuda.is_available = lambda: False  # type: ignore[assignment]
ROOT = Path(__file__).resolve().parents[1]
SMALL = {"latent": 3, "encoder_width": 8, "decoder_width": 8}
KINDS = samslib.MODELS | samslib.BASELINES
VARIANTS: dict[str, dict] = {name: {} for name in sorted(samslib.MODELS)} | {
    "cradle_vae sum": {"compose": "sum"},
    "cpa covariates": {"variational": True, "dose_curve": "sigm", "likelihood": "zero_inflated_negative_binomial"},
    "cpa linear": {"dose_curve": "linear"},
    "cpa network": {"dose_curve": "network", "dose_width": 8},
    "learned_sparsity beta": {"mask_posterior": "beta"},
    "learned_sparsity mean_field beta": {"posterior": "mean_field", "mask_posterior": "beta"},
    "learned_sparsity mean_field point": {"posterior": "mean_field"},
    "sams_vae mean_field": {"posterior": "mean_field", "dense_start": 0.0},
    "sams_vae sparse": {"dense_start": 0.0},
    "sams_vae guides": {"dense_start": 0.0},
    "sams_vae latent": {"direct": False},
    **{f"sams_vae doses {curve}": {"dose_curve": curve} for curve in ("sigmoid", "logsigmoid")},
    "sams_vae doses guides": {"dose_curve": "monotone"},
    **{f"sams_vae interactions{of}": {"interactions": True} for of in ("", " guides")},
    "sams_vae interactions doses": {"interactions": True, "dose_curve": "sigmoid"},
    "sams_vae paper": {**samslib.SAMSVAE.published, **SMALL},
    "cpa_vae direct": {"direct": True},
    **dict.fromkeys(samslib.BASELINES, {}),
    "svae_plus original": {"cell_masks": True, "mask_initial_logit": 5.0, "embedding_initial_spread": 1.0},
}


def pytest_addoption(parser) -> None:
    words = {"action": "append", "default": [], "metavar": "MODULE:CLASS"}
    parser.addoption("--model", help="put this class of your own through every test that all models must pass", **words)


def pytest_configure(config) -> None:
    for place in config.getoption("--model"):
        module, name = place.split(":")
        KINDS[name], VARIANTS[name] = getattr(importlib.import_module(module), name), {}


def pytest_generate_tests(metafunc) -> None:
    if "model" in metafunc.fixturenames:
        metafunc.parametrize("model", VARIANTS, indirect=True)


def make_data(
    cells: int = 90, genes: int = 12, seed: int = 0, quality: bool = False, covariates: bool = False
) -> samslib.PerturbationData:
    """Counts of controls, A, B, C and A+B, in turn; A and B double a gene each. With `quality`, every third cell fails,
    which its last gene shows, and has a twin. Covariates: a line of two levels and a plate of one."""
    rng = np.random.default_rng(seed)
    labels = np.array(["control", "A", "B", "C", "A+B"])[np.arange(cells) % 5]
    rate = np.full((cells, genes), 4.0)
    rate[np.char.find(labels, "A") >= 0, 0] *= 4
    rate[np.char.find(labels, "B") >= 0, 1] *= 4
    fails = (np.arange(cells) % 3 == 0) & quality
    rate[fails, -1] *= 4
    adata = anndata.AnnData(
        rng.poisson(rate * rng.lognormal(0, 0.3, (cells, 1))).astype(np.float32),
        obs=pd.DataFrame(
            {
                "perturbation": labels,
                "fails": fails.astype(int),
                "line": np.where(np.arange(cells) % 3, "x", "y"),
                "plate": "1",
            },
            index=[f"cell{i}" for i in range(cells)],
        ),
        var=pd.DataFrame(index=[f"gene{g}" for g in range(genes)]),
    )
    levels = ("line", "plate") if covariates else ()
    data = samslib.PerturbationData.from_anndata(adata, covariates=levels, quality="fails" if quality else None)
    return samslib.quality.with_twins(data) if quality else data


def data_for(variant: str, genes: int = 12) -> samslib.PerturbationData:
    """Small data that a variant takes: of guides, A and B of one target, or of three doses, where it says so."""
    kind = KINDS[variant.split()[0]]
    cells = make_data(genes=genes, quality="quality" in kind.uses, covariates="covariates" in variant)
    data = prepare(kind, cells)
    if "doses" in variant:
        amounts = np.resize([0.5, 1, 3], (len(data), 1)) * [1, 2, 0.5]
        data = replace(data, dose=data.dose.multiply(amounts).tocsr().astype(np.float32))
    return replace(data, targets=("first", "first", "second")) if "guides" in variant else data


def make_model(variant: str, summary: samslib.DataSummary, **options) -> samslib.model.Model:
    torch.manual_seed(0)
    kind = KINDS[variant.split()[0]]
    return kind(summary, **kind.accepted(SMALL) | VARIANTS[variant] | options)


def content(result: Any) -> Any:
    """What a table, an AnnData (without uns) or an array holds, to be compared."""
    if isinstance(result, anndata.AnnData):
        X = result.X.toarray() if sp.issparse(result.X) else result.X
        return content({"X": X, "obs": result.obs, "var": result.var, **result.layers})
    if isinstance(result, dict):
        return {name: content(value) for name, value in result.items()}
    return result.to_csv() if isinstance(result, pd.DataFrame) else np.asarray(result).tobytes()


def ignored(function: Callable[..., Any], base: dict[str, Any], **others: Any) -> set[str]:
    """The arguments for which another value changes nothing. Every argument with a default must be in one of both."""
    defaults = {n for n, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    assert defaults <= {*base, *others}
    before = content(function(**base))
    return {name for name, value in others.items() if content(function(**base | {name: value})) == before}


@pytest.fixture
def data(request) -> samslib.PerturbationData:
    """Small data; for the models that take no combinations, with A+B as a perturbation of its own; with a quality flag
    for those that read one."""
    variant = getattr(request.node, "callspec", None) and request.node.callspec.params.get("model")
    return data_for(variant) if variant else make_data()


@pytest.fixture
def model(request, data) -> samslib.model.Model:
    return make_model(request.param, data.summary(pseudobulk=True))


class LinearGaussian(samslib.model.Model):
    """x = W (z + D E) + noise of standard deviation 0.5, z ~ N(0, I): everything is known in closed form.

    q(E) = N(centre, posterior_spread^2); q(z | x, E) is the exact posterior but for a mean that is off by 0.3 and a
    spread that is 1.5 times too wide.
    """

    exogenous = ("z",)
    NOISE = 0.5

    def __init__(self, summary, posterior_spread=0.4):
        super().__init__(summary, locals())
        rng = np.random.default_rng(0)
        G, T = len(summary.genes), len(summary.perturbations)
        self.W = torch.nn.Parameter(torch.tensor(rng.normal(size=(G, 2)), dtype=torch.get_default_dtype()))
        self.centre = torch.nn.Parameter(torch.tensor(rng.normal(size=(T, 2)), dtype=torch.get_default_dtype()))
        self.spread = posterior_spread

    def _law(self, t):
        centre = self.centre[t.rows(Plate.DOSE)]
        return Normal(centre, torch.full_like(centre, self.spread))

    def generate(self, t, c):
        z = t.sample("z", standard_normal(len(c), 2, self.W), Plate.CELL)
        mean = (z + c.dose @ t.sample("E", self._law(t), Plate.DOSE)) @ self.W.T
        return Normal(mean, torch.full_like(mean, self.NOISE))

    def infer_shared(self, t):
        t.sample("E", self._law(t), Plate.DOSE)

    def infer_cells(self, t, b):
        precision = torch.eye(2).to(self.W) + self.W.T @ self.W / self.NOISE**2
        left = b.x - (b.condition.dose @ t["E"]) @ self.W.T
        mean = torch.linalg.solve(precision, (left @ self.W / self.NOISE**2).mT).mT
        t.sample("z", Normal(mean + 0.3, (1.5 * precision.inverse().diagonal().sqrt()).expand_as(mean)), Plate.CELL)

    def effects(self, doses):
        """(arms, G): the exact average treatment effects of the mean."""
        return (doses.to(self.W) @ self.centre @ self.W.T).detach().numpy()

    def exact(self, data):
        """(n,) log of the mean of p(x | E) over q(E), in nats."""
        W, dose = self.W.detach().double().numpy(), data.dose.toarray().astype(float)
        mean = dose @ self.centre.detach().double().numpy() @ W.T
        extra = 1 + self.spread**2 * (dose**2).sum(1)
        noise = self.NOISE**2 * np.eye(len(W))
        rows = zip(data.x, mean, extra, strict=True)
        return np.array([multivariate_normal(m, W @ W.T * e + noise).logpdf(x) for x, m, e in rows])


class Echo(samslib.model.Model):
    """A cell's values are its own library size, doses, covariates and flags, and zeros for the rest of its genes. It
    reads more than its `uses` says, for that would stand in the warnings of every other model."""

    def __init__(self, summary):
        super().__init__(summary, locals())
        self.zero = torch.nn.Parameter(torch.zeros(()))

    def generate(self, t, c):
        dose = t.widen(c.dose, len(self.summary.perturbations))
        parts = [part.expand(t.particles, len(c), -1) for part in (c.library, dose, c.covariate, c.qc)]
        mean = torch.nn.functional.pad(
            torch.cat(parts, -1), (0, len(self.summary.genes) - sum(p.shape[-1] for p in parts))
        )
        return Normal(mean, torch.full_like(mean, 1e-6))

    def infer_shared(self, t): ...
    def infer_cells(self, t, b): ...


def linear_data(cells: int = 60, genes: int = 4) -> samslib.PerturbationData:
    """Real values of the same five conditions as `make_data`."""
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"perturbation": np.array(["control", "A", "B", "C", "A+B"])[np.arange(cells) % 5]})
    obs.index = [f"cell{i}" for i in range(cells)]
    x = rng.normal(size=(cells, genes)).astype(np.float32)
    return samslib.PerturbationData.from_anndata(anndata.AnnData(x, obs=obs), counts=False)


def pytest_terminal_summary(terminalreporter) -> None:
    """What tests measured, in every run's closing lines: differences to published numbers, sizes of the library."""
    titles = {"golden": "agreement with the published implementation, float64", "lines of code": "lines of code"}
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    for key, title in titles.items():
        lines = [text for report in reports for name, text in report.user_properties if name == key]
        if lines:
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(lines))
