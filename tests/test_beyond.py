"""The experiments past the paper: their screens, and what the recorded tables say."""

from __future__ import annotations

import numpy as np
import pytest
import samsbook
from samsbook import beyond

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


@pytest.mark.parametrize("screen", beyond.SCREENS)
def test_the_default_finds_the_axes_at_least_as_well_as_the_best_tuned_prior(screen):
    """The recorded runs: F1 within the interval of the best prior, chosen by the truth, or above it; under a tenth of
    the masks undecided; the bound not lower by more than a five-hundredth."""
    table = samsbook.read_results("beyond-sparsity").query("screen == @screen").set_index("way")
    default, best = table.loc[beyond.DEFAULT], table[table["tuned"]].iloc[0]
    assert default["f1"] >= best["low"]
    assert default["undecided"] < 0.1
    assert default["bound"] > best["bound"] - abs(best["bound"]) / 500
