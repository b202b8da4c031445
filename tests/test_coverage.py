"""The experiments on ensembles, intervals and the ranked list: what they simulate and count, and what was recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from samsbook import coverage

import samslib


@pytest.fixture(scope="module")
def small():
    """A screen of unseen pairs, with fewer further cells than the recorded ones have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "TRUTH", 200)
        return coverage.simulated("unseen pairs", seed=0)


def test_unseen_pairs_are_trained_validated_or_tested(small):
    """A third of the 30 pairs has training cells; other pairs are in one part alone; the truth is of all conditions."""
    data, parts, truth = small
    pairs = pd.DataFrame({"pair": data.labels, "part": parts})[data.n_perturbations == 2]
    by = pairs.groupby("pair")["part"].agg(set)
    assert len(by) == 30 and ("train" in parts[data.n_perturbations == 1])
    assert sorted(map(len, by))[:20] == [1] * 20 and sum("train" in of for of in by) == 10
    assert sum(of == {"val"} for of in by) == sum(of == {"test"} for of in by) == 10
    assert set(truth.obs_names) == set(data.labels) - {"control"} and truth.obs["cells"].min() >= 40
    assert set(np.unique(data.labels, return_counts=True)[1]) <= {*coverage.CELLS, coverage.CONTROLS}


def test_coverage_is_counted_over_the_pairs_that_no_training_cell_had(small):
    """What cannot be missed is always covered: training effects in their own interval, an interval of huge width."""
    data, parts, truth = small
    train, val, test = data.split(parts)
    effects = samslib.predictors(train, val, data)["shrunken"]
    n = train.conditions()["cells"].reindex(effects.obs_names).fillna(20)
    effects.obs["training_cells"] = n.to_numpy()
    rows = pd.DataFrame(coverage.covered(effects, (train, val, test), truth, 0.9)).set_index(["of", "cells"])
    assert rows.loc["cells", "all"]["conditions"] == rows.loc["cells", "20 to 49"]["conditions"] == 10
    assert (rows["width"]["cells"]["all"] > rows["width"]["truth"]["all"]) and rows["coverage"].between(0.6, 1).all()
    wide = pd.DataFrame(coverage.covered(effects, (train, val, test), truth, 0.9999))
    assert (wide["coverage"] >= rows.reset_index()["coverage"]).all() and wide["coverage"].min() > 0.97


def test_the_ranked_screens_have_effects_where_the_truth_says_so():
    table = coverage._ranked(100, 0.3, seed=0)
    assert 0 < table["acts"].sum() < 20 and table["p"][table["acts"]].median() < table["p"][~table["acts"]].median()
