"""The recorded screen of the published size: one of its fits on a small one, and what the texts say of the record."""

import anndata
import numpy as np
import pytest
import samsbook
from samsbook import full_size
from test_layout import ROOT

import samslib


@pytest.mark.filterwarnings("ignore:Worse than|Perhaps not")
@pytest.mark.parametrize("way", ["SAMS-VAE", "conditional VAE"])
def test_a_fit_leaves_its_effects_and_says_what_was_measured(tmp_path, way, monkeypatch):
    monkeypatch.setitem(full_size.WAYS, "conditional VAE", (samslib.ConditionalVAE, {"latent": 3}, samslib.FitConfig))
    screen = {**full_size.SCREEN, "latent": 5, "mask_probability": 0.2}
    cells = samslib.simulate.perturb_seq(singles=4, cells=15, controls=20, genes=20, seed=0, **screen)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    row = full_size.fitted(way, str(tmp_path), 3, seed=0)
    assert row["model"] == way and row["steps"] == 3 and row["minutes"] > 0 and row["bound"] < 0
    assert ("f1" in row) == (way == "SAMS-VAE")
    effects = anndata.read_h5ad(tmp_path / f"{way}.h5ad")
    assert effects.shape == (4, 20) and np.isfinite(effects.X).all()


@pytest.fixture(scope="module")
def record():
    return samsbook.read_results("full-size").set_index("model")


def said(page: str) -> str:
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_the_page_on_time_says_what_was_recorded(record):
    models, page = record[record["minutes"].notna()], said("book/performance.md")
    low, high = models["minutes"].min(), models["minutes"].max()
    assert f"took {low:.1f} to {high:.1f} minutes a model" in page
    assert f"The {models['steps'].iloc[0]:,.0f} steps of the library's rule" in page and models["steps"].nunique() == 1
    assert f"the sparsest rotation of {models.loc['SAMS-VAE', 'axes']:.0f} axes" in page
    assert record.attrs["machine"] == "NVIDIA H200" and "one H200, five models side by side" in page
    assert len(models) == 5


def test_the_ledger_says_who_has_the_higher_bound(record):
    above = record["bound"] - record.loc["SAMS-VAE", "bound"]
    text = f"SVAE+ is {above['SVAE+']:.1f} and CPA-VAE {above['CPA-VAE']:.1f} nats above SAMS-VAE"
    assert text in said("book/ledger.md")


def test_the_grid_s_hours_on_a_gpu_are_those_of_the_table():
    table = samsbook.read_results("cost-gpu")
    assert f"the same grid takes {table['hours'].iloc[-1]:.0f} hours of the clock:" in said("book/grid.md")
    assert table["hours"].iloc[-1] == table["hours"].iloc[:-1].sum()
