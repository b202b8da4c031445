"""The experiments past the paper: their screens, and what the recorded tables say."""

from __future__ import annotations

import re

import numpy as np
import pytest
import samsbook
import torch
from samsbook import beyond
from test_layout import ROOT

import samslib


def test_a_knocked_down_gene_loses_counts_in_its_own_cells_alone():
    """Every perturbation has one gene, whose counts fall to a fifth in its cells (400 cells and 4 counts each: within
    five standard errors); all other counts stay."""
    adata = samslib.simulate.perturb_seq(
        singles=3, pairs=0, cells=400, controls=100, genes=20, library=(2000.0, 0.1), seed=0
    )
    before = adata.X.toarray()
    truth = beyond.knocked_down(adata, seed=1)
    after, names = adata.X.toarray(), adata.obs["perturbation"].to_numpy()
    assert truth.shape == (3, 20) and (truth.sum(1) == 1).all()
    for row, name in zip(truth > 0, adata.uns["truth"]["perturbations"], strict=True):
        own = names == name
        total = before[own][:, row].sum()
        error = 5 * np.sqrt(beyond.LEFT * (1 - beyond.LEFT) / total)
        assert abs(after[own][:, row].sum() / total - beyond.LEFT) < error
        assert np.array_equal(after[own][:, ~row], before[own][:, ~row])
    assert np.array_equal(after[names == "control"], before[names == "control"])


@pytest.fixture(scope="module")
def sparsity():
    table = samsbook.read_results("beyond-sparsity").set_index("screen")
    default, tuned = table[table["way"] == beyond.DEFAULT], table[table["tuned"]]
    assert list(default.index) == list(tuned.index) == list(beyond.SCREENS)
    return default, tuned


def test_the_default_finds_the_axes_better_than_the_best_tuned_prior(sparsity):
    """The recorded runs of five seeds a screen. The prior was chosen by the truth, which no user has; still F1 is
    higher on all six screens, and above the interval of the tuned prior on five."""
    default, tuned = sparsity
    assert (default["f1"] > tuned["f1"]).all() and (default["f1"] > tuned["high"]).sum() == 5


def test_direct_effects_that_are_not_there_do_not_hide_the_axes(sparsity):
    """The default with its direct effects, on the same screens, which have none."""
    _, tuned = sparsity
    default = samsbook.read_results("beyond-default").set_index("screen")
    assert (default["f1"] > tuned["f1"]).all()
    assert (default["bound"] > sparsity[0]["bound"] - 0.25).all()


def test_what_the_default_does_not_reach_is_as_the_book_says(sparsity):
    """Masks are undecided in more than a tenth of the entries on three screens, and the bound is lower on one."""
    default, tuned = sparsity
    assert default.index[default["undecided"] > 0.1].tolist() == ["mid", "dense", "few cells"]
    assert default.index[default["bound"] < tuned["bound"]].tolist() == ["few cells"]


@pytest.fixture(scope="module")
def weighted():
    return samsbook.read_results("beyond-weighted").set_index("screen")


def without_a_model(name):
    """Correlations of the predictors that need no model, a row a split."""
    table = samsbook.read_results(f"beyond-{name}")
    return table[table["model"].str.startswith("data:")].pivot(index="seed", columns="model", values="correlation")


def test_the_weighted_bound_is_above_all_that_needs_no_model_on_one_real_screen_and_below_on_the_other(weighted):
    tapseq = weighted.loc["tapseq"].set_index("seed")["correlation"]
    assert (tapseq > without_a_model("effects").max(axis=1)).all()
    assert tapseq.round(3).tolist() == [0.613, 0.625, 0.613]
    norman = weighted.loc["norman-devel"].set_index("seed")["correlation"]
    assert norman.mean() < without_a_model("norman").mean().max() - 0.04
    assert norman.round(3).tolist() == [0.221, 0.406, 0.403]


def test_the_weighted_bound_leaves_more_masks_undecided(weighted, sparsity):
    default, _ = sparsity
    mean = weighted.loc[list(beyond.SCREENS)].groupby("screen")[["f1", "undecided"]].mean().loc[default.index]
    assert (mean["undecided"] > default["undecided"]).all()
    assert (mean["f1"] > default["f1"]).tolist() == [False, True, True, True, False, False]
    assert mean["undecided"].round(2).tolist() == [0.11, 0.16, 0.24, 0.14, 0.19, 0.06]
    assert mean["f1"].round(2).tolist() == [0.54, 0.57, 0.56, 0.53, 0.35, 0.49]


def test_averaged_weights_are_means_and_flags_those_of_the_last():
    model = torch.nn.BatchNorm1d(2)  # it counts its batches
    states = [{name: torch.full_like(value, i) for name, value in model.state_dict().items()} for i in (1, 2, 6)]
    beyond.average(model, states)
    assert (model.weight == 3).all() and (model.running_mean == 3).all() and model.num_batches_tracked == 6


def test_what_else_was_tried_does_not_make_all_masks_decide():
    table = samsbook.read_results("beyond-undecided")
    assert list(table["way"].unique()) == list(beyond.TRIED)
    undecided = table.pivot(index="way", columns="screen", values="undecided")
    assert (undecided.max(axis=1) > 0.1).all()
    assert (undecided.loc["prior 0.001"] < undecided.loc["default"]).all()
    default = table[table["way"] == "default"]
    assert default["probability"].round(2).between(0.39, 0.46).all()
    assert default["truly on"].round(2).tolist() == [0.13, 0.28, 0.16]
    told = (samsbook.root() / "book" / "differences.md").read_text(encoding="utf-8")
    for way, rows in table.groupby("way"):
        cells = " | ".join(f"{row.f1:.2f}, {row.undecided:.0%}, {row.bound:.2f}" for row in rows.itertuples())
        assert f"| {way} | {cells} |" in told


def test_one_setting_at_a_time_is_as_the_book_says():
    table = samsbook.read_results("beyond-settings").set_index("setting").round(2)
    assert table.loc["tables at the networks' rate", ["gain", "half_width"]].tolist() == [-1.6, 0.36]
    assert table.loc["importance-weighted, 5 particles", ["gain", "half_width"]].tolist() == [0.42, 0.31]
    assert table.loc["averaged weights", ["gain", "half_width"]].tolist() == [0.01, 0.09]
    assert table.loc["averaged weights, constant rates", ["gain", "half_width"]].tolist() == [0.09, 0.10]
    others = ["sampled divergences", "1 particle", "5 particles", "batches of 128", "constant rates"]
    assert (table.loc[others, "gain"].abs() < 0.2).all()


def test_axes_follow_from_the_number_of_perturbations():
    """A quarter of them and 30 at least; of targets where perturbations are guides; what is said is kept."""
    adata = samslib.simulate.perturb_seq(singles=130, pairs=0, cells=3, controls=10, genes=10, latent=2, seed=0)
    summary = samslib.PerturbationData.from_anndata(adata).summary()
    model = samslib.SAMSVAE(summary)
    assert model.options["latent"] == model.shifts().shape[1] == 32
    assert samslib.SAMSVAE(summary, 7).options["latent"] == 7
    adata.obs["gene"] = ["control" if name == "control" else name[:2] for name in adata.obs["perturbation"].astype(str)]
    guides = samslib.PerturbationData.from_anndata(adata, target="gene").summary()
    assert len(guides.rows) < 130 and samslib.SAMSVAE(guides).options["latent"] == 30


def test_sizes_are_as_the_book_says():
    """The rule's 75 axes beat 30 on every screen of 300 perturbations; on those of 100 its 30 lose little to 60; wider
    networks gain on all six."""
    table = samsbook.read_results("beyond-sizes")
    means = table.groupby(["screen", "axes", "width"])[["bound", "correlation", "ceiling"]].mean()
    page = (ROOT / "book" / "differences.md").read_text(encoding="utf-8")
    for (screen, axes, width), row in means.iterrows():
        assert axes == 30 or screen != "300 perturbations" or axes == max(30, 300 // 4)
        assert re.search(rf"\| {axes}[^|]* \| {width} \| {row['bound']:.2f} \| {row['correlation']:.3f} \|", page)
    wide = table.set_index(["screen", "seed", "axes", "width"])[["bound", "correlation"]].sort_index()
    large, mid = wide.loc["300 perturbations"], wide.loc["100 perturbations"]
    at = lambda part, axes, width: part.xs((axes, width), level=("axes", "width"))  # noqa: E731
    assert (at(large, 75, 128) > at(large, 30, 128)).all(axis=None)
    assert (at(large, 75, 256) > at(large, 75, 128)).all(axis=None) and (at(mid, 30, 256) > at(mid, 30, 128)).all(
        axis=None
    )
    gained = (at(mid, 60, 128) - at(mid, 30, 128))["bound"]
    assert gained.between(0, 0.15).all()
    seconds = table.set_index(["screen", "axes", "width", "seed"])["seconds"]
    ratio = seconds.xs(256, level="width") / seconds.xs(128, level="width")
    assert 1.05 < ratio.min() and ratio.max() < 1.5
