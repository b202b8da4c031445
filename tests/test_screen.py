"""The recorded real screen of chapter 4: its tables on a small screen, and what the chapter says of the recorded."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from samsbook import screen

import samslib

PARAMETERS = {"dataset": "tiny", "latent": 3, "width": 8, "particles": 20, "score_particles": 2, "steps": 3}


@pytest.fixture
def tiny():
    """Two guides of each of three targets; those of A lose gene A."""
    names = np.repeat(["control", "A_1", "A_2", "B_1", "B_2", "C_1", "C_2"], 30)
    rate = np.where(np.char.startswith(names, "A")[:, None] & (np.arange(5) == 0), 0.5, 5.0)
    obs = pd.DataFrame({"perturbation": names, "target": [n.split("_")[0] for n in names]})
    obs.index = obs.index.map("c{}".format)
    counts = np.random.default_rng(0).poisson(rate).astype(np.float32)
    adata = ad.AnnData(counts, obs, pd.DataFrame(index=list("ABXYZ")))
    return samslib.PerturbationData.from_anndata(adata, separator="|", target="target")


def test_targets_have_the_cosine_of_their_guides_and_the_effect_on_their_own_gene(tiny):
    effects = samslib.data_effects(tiny)
    table = screen.of_targets({"cells": effects}, tiny).set_index("target")
    assert list(table.index) == ["A", "B", "C"] and table["own gene"].isna().tolist() == [False, False, True]
    x = effects.to_df()
    unit = x.div(np.linalg.norm(x, axis=1), axis=0)
    assert table.loc["A", "within"] == pytest.approx(unit.loc["A_1"] @ unit.loc["A_2"], abs=1e-6)
    others = unit.drop(["A_1", "A_2"])
    assert table.loc["A", "between"] == pytest.approx((unit.loc[["A_1", "A_2"]] @ others.T).to_numpy().mean(), abs=1e-6)
    assert table.loc["A", "own gene"] == pytest.approx(x.loc[["A_1", "A_2"], "A"].mean(), abs=1e-6)
    assert table.loc["A", "own gene"] < -1.5 < table.loc["B", "own gene"]


@pytest.mark.filterwarnings("ignore:Worse than|Perhaps not")
def test_one_split_scores_guides_and_targets_of_models_and_predictors(tiny, monkeypatch):
    monkeypatch.setattr(screen, "real", {"tiny": tiny}.get)
    monkeypatch.setattr(screen, "KINDS", {k: screen.KINDS[k] for k in ("SAMS-VAE", "CPA", "additive")})
    table, targets = screen.one_split(PARAMETERS, seed=0)
    found = table.set_index(["level", "model"])
    models = {"SAMS-VAE", "CPA", "additive"}
    for level in ("guides", "targets"):
        assert models | {"data: training cells", "data: shrunken"} <= set(found.loc[level].index)
        assert found.loc[level]["ceiling"].nunique() == 1
    assert ("guides", "data: guides pooled") in found.index
    assert found.loc[("guides", "SAMS-VAE"), ["bound", "seconds"]].notna().all()
    assert {"held-out cells", "guides pooled", *models} <= set(targets["model"])
    assert (targets.groupby("model").size() == 3).all()
