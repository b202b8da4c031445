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


def make_data(cells: int = 90, genes: int = 12, seed: int = 0) -> samslib.PerturbationData:
    """Counts of controls, A, B, C and A+B, in turn; A and B double a gene each."""
    rng = np.random.default_rng(seed)
    labels = np.array(["control", "A", "B", "C", "A+B"])[np.arange(cells) % 5]
    rate = np.full((cells, genes), 4.0)
    rate[np.char.find(labels, "A") >= 0, 0] *= 4
    rate[np.char.find(labels, "B") >= 0, 1] *= 4
    adata = anndata.AnnData(
        rng.poisson(rate * rng.lognormal(0, 0.3, (cells, 1))).astype(np.float32),
        obs=pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(cells)]),
        var=pd.DataFrame(index=[f"gene{g}" for g in range(genes)]),
    )
    return samslib.PerturbationData.from_anndata(adata)


@pytest.fixture
def data() -> samslib.PerturbationData:
    return make_data()


@pytest.fixture(params=sorted(samslib.MODELS))
def model(request, data) -> samslib.model.Model:
    torch.manual_seed(0)
    return samslib.MODELS[request.param](data.summary(), **SMALL)


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
