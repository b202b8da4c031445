"""What several tests need: small data with every kind of column, and small models of it."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import samslib

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"latent": 3, "encoder_width": 8, "decoder_width": 8}
VARIANTS: dict[str, dict] = {name: {} for name in sorted(samslib.MODELS)} | {
    "cpa covariates": {"variational": True, "dose_curve": "sigm", "likelihood": "zero_inflated_negative_binomial"},
    "cpa linear": {"dose_curve": "linear"},
    "cpa network": {"dose_curve": "network", "dose_width": 8},
    "learned_sparsity beta": {"mask_posterior": "beta"},
    "learned_sparsity mean_field beta": {"posterior": "mean_field", "mask_posterior": "beta"},
    "learned_sparsity mean_field point": {"posterior": "mean_field"},
    "sams_vae mean_field": {"posterior": "mean_field"},
    "svae_plus original": {"cell_masks": True, "mask_initial_logit": 5.0, "embedding_initial_spread": 1.0},
}
ONE_PERTURBATION = (samslib.SVAEPlus,)  # models that take no combinations


def make_data(cells: int = 90, genes: int = 12, seed: int = 0, covariates: bool = False) -> samslib.PerturbationData:
    """Counts of controls, A, B, C and A+B, in turn; A and B double a gene each. Covariates: a line of two levels and
    a plate of one."""
    rng = np.random.default_rng(seed)
    labels = np.array(["control", "A", "B", "C", "A+B"])[np.arange(cells) % 5]
    rate = np.full((cells, genes), 4.0)
    rate[np.char.find(labels, "A") >= 0, 0] *= 4
    rate[np.char.find(labels, "B") >= 0, 1] *= 4
    adata = anndata.AnnData(
        rng.poisson(rate * rng.lognormal(0, 0.3, (cells, 1))).astype(np.float32),
        obs=pd.DataFrame(
            {"perturbation": labels, "line": np.where(np.arange(cells) % 3, "x", "y"), "plate": "1"},
            index=[f"cell{i}" for i in range(cells)],
        ),
        var=pd.DataFrame(index=[f"gene{g}" for g in range(genes)]),
    )
    return samslib.PerturbationData.from_anndata(adata, covariates=("line", "plate") if covariates else ())


def make_model(variant: str, summary: samslib.DataSummary) -> samslib.model.Model:
    torch.manual_seed(0)
    return samslib.MODELS[variant.split()[0]](summary, **SMALL, **VARIANTS[variant])


@pytest.fixture
def data(request) -> samslib.PerturbationData:
    """Small data; for the models that take no combinations, with A+B as a perturbation of its own."""
    variant = getattr(request.node, "callspec", None) and request.node.callspec.params.get("model")
    unique = variant and samslib.MODELS[variant.split()[0]] in ONE_PERTURBATION
    return make_data().encode_unique() if unique else make_data(covariates=bool(variant) and "covariates" in variant)


@pytest.fixture(params=VARIANTS)
def model(request, data) -> samslib.model.Model:
    return make_model(request.param, data.summary())


def pytest_terminal_summary(terminalreporter) -> None:
    """The golden tests' largest differences, in every run's closing lines."""
    lines = [
        text
        for report in terminalreporter.getreports("passed")
        for name, text in report.user_properties
        if name == "golden"
    ]
    if lines:
        terminalreporter.section("agreement with the published implementation, float64")
        terminalreporter.write_line("\n".join(lines))
