"""Scores against scikit-learn, SciPy and their definitions; intervals and ceilings against simulated repeats."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from conftest import ignored, make_data
from samsbook.published import relative_bound, verdicts
from scipy.spatial.distance import cdist
from sklearn.metrics import jaccard_score, r2_score, root_mean_squared_error
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel

import samslib
from samslib import cell_scores, data_effects, effect_scores, noise_ceiling, score_table
from samslib.evaluate.observed import _Cells, readouts
from samslib.evaluate.scores import BANDWIDTHS, _moments, interaction_classes, interactions, posterior_errors
from samslib.evaluate.tables import effect_table

GENES, LABELS = 60, ["A", "A+B", "B", "C"]


def screen(seed: int, cells: int = 200, size: float = 0.6, shared: int = 0) -> samslib.PerturbationData:
    """Counts of make_data's conditions whose log fold changes are those of the seed `shared`."""
    rng = np.random.default_rng(shared)
    base, change = rng.lognormal(1, 0.6, GENES), size * rng.normal(size=(4, GENES))
    labels = np.array(["control", *LABELS])[np.arange(cells) % 5]
    rng = np.random.default_rng((seed, 1))
    shift = np.vstack([np.zeros(GENES), change])[np.arange(cells) % 5]
    x = rng.poisson(base * np.exp(shift) * rng.lognormal(0, 0.3, (cells, 1))).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(cells)])
    adata = anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=[f"g{g}" for g in range(GENES)]))
    return samslib.PerturbationData.from_anndata(adata)


def wide(table: pd.DataFrame) -> pd.DataFrame:
    return table.pivot(index="perturbation", columns="score", values="value")


@pytest.fixture(scope="module")
def pair():
    return data_effects(screen(1)), data_effects(screen(2))


def test_scores_are_those_of_scikit_learn_and_scipy(pair):
    predicted, observed = pair
    found = wide(effect_scores(predicted, observed))
    for i, name in enumerate(LABELS):
        u, w = predicted.X[i], observed.X[i]
        top = np.argsort(-abs(w))[:20]
        expected = {
            "pearson": scipy.stats.pearsonr(u, w)[0],
            "r2": r2_score(w, u),
            "pearson_top20": scipy.stats.pearsonr(u[top], w[top])[0],
            "r2_top20": r2_score(w[top], u[top]),
            "cosine": cosine_similarity([u], [w])[0, 0],
            "rmse": root_mean_squared_error(w, u),
            "rmse_average": np.log(2)
            * root_mean_squared_error(observed.var["control"] + w, predicted.var["control"] + u),
            "cpa_r2_mean": r2_score(observed.var["control"] + w, predicted.var["control"] + u),
            "cpa_r2_variance": r2_score(observed.layers["variance"][i], predicted.layers["variance"][i]),
        }
        for k in (20, 50):
            large = [abs(v) >= np.sort(abs(v))[-k] for v in (u, w)]
            expected[f"jaccard_top{k}"] = jaccard_score(*large)
        fold = [
            np.log2(np.log(2) * (t.var["control"] + v) + 0.1) - np.log2(np.log(2) * observed.var["control"] + 0.1)
            for t, v in ((predicted, u), (observed, w))
        ]
        expected["cosine_logfc"] = cosine_similarity(*(np.array([f]) for f in fold))[0, 0]
        for score, value in expected.items():
            assert found.loc[name, score] == pytest.approx(value), (name, score)
    pooled = found.loc["pooled"]
    assert pooled["pearson"] == pytest.approx(scipy.stats.pearsonr(predicted.X.ravel(), observed.X.ravel())[0])
    assert pooled["r2"] == pytest.approx(r2_score(observed.X.ravel(), predicted.X.ravel()))
    tops = np.argsort(-abs(observed.X), axis=1)[:, :20]
    u, w = (np.take_along_axis(t.X, tops, 1).ravel() for t in (predicted, observed))
    assert pooled["pearson_top20"] == pytest.approx(scipy.stats.pearsonr(u, w)[0])
    for score in ("jaccard_top20", "cosine", "rmse", "rank_rmse", "cpa_r2_mean"):
        assert pooled[score] == pytest.approx(found.loc[LABELS, score].mean())
    assert found.loc["median", "pearson"] == pytest.approx(found.loc[LABELS, "pearson"].median())


def test_the_pooled_scores_of_cpa_are_of_conditions_with_more_than_30_cells():
    """Of A 31 cells, of B 30, of C 40 and of A+B 20; every other score is pooled over all four."""
    data, most = screen(2, 400), {"control": 40, "A": 31, "B": 30, "C": 40, "A+B": 20}
    kept = np.concatenate([np.flatnonzero(data.labels == name)[:n] for name, n in most.items()])
    found = wide(effect_scores(data_effects(screen(1)), data_effects(data[kept])))
    for score in ("cpa_r2_mean", "cpa_r2_variance"):
        assert found.loc["pooled", score] == pytest.approx(found.loc[["A", "C"], score].mean())
        assert found.loc["median", score] == pytest.approx(found.loc[LABELS, score].median())
    assert found.loc["pooled", "rmse"] == pytest.approx(found.loc[LABELS, "rmse"].mean())


def test_ranks_count_the_predictions_that_are_closer(pair):
    predicted, observed = (table.copy() for table in pair)
    predicted.X = predicted.X[[1, 3, 2, 2]]  # A predicted as A+B is, A+B as C, and C as B
    found = wide(effect_scores(predicted, observed))
    u, w = (np.log(2) * (t.X + t.var["control"].to_numpy()) for t in (predicted, observed))
    fold = [np.log2(mean + 0.1) - np.log2(np.log(2) * observed.var["control"].to_numpy() + 0.1) for mean in (u, w)]
    tie = [0, 0, 1 / 8, 1 / 8]  # one other prediction is as far as one's own
    for score, distance in {"rank_rmse": cdist(u, w), "rank_cosine": cdist(*fold, "cosine")}.items():
        closer = distance < np.diag(distance) - 1e-9
        np.testing.assert_allclose(found.loc[LABELS, score], closer.mean(0) + tie)
        assert closer.any() and (closer.sum(0) != closer.sum(1)).any()
    same = wide(effect_scores(observed, observed))
    assert (same.loc[LABELS, ["rank_rmse", "rank_cosine"]] == 0).all(axis=None)


def test_ranks_by_direction_are_of_fold_changes_of_any_length():
    """Twelve perturbations, of which the last have the largest effects, predicted with as much noise."""
    rng = np.random.default_rng(0)
    names, control = [f"P{i:02d}" for i in range(12)], rng.lognormal(0, 1, GENES)
    change = np.linspace(0.02, 0.5, 12)[:, None] * rng.normal(size=(2, 12, GENES)).cumsum(0)
    mean = control * np.exp(change)
    settings = data_effects(screen(0)).uns["samslib"]
    tables = [effect_table(screen(0), names, m - control, {}, (control, control), settings) for m in mean]
    u, w = (np.log2(np.log(2) * m + 0.1) - np.log2(np.log(2) * control + 0.1) for m in mean)
    distance = cdist(u, w, "cosine")
    expected = (distance < np.diag(distance)).mean(0)
    found = wide(effect_scores(*tables)).loc[names, "rank_cosine"]
    np.testing.assert_allclose(found, expected)


def test_interactions_are_what_sums_leave(pair):
    predicted, observed = pair
    table = interactions(observed)
    residual = observed["A+B"].X - observed["A"].X - observed["B"].X
    assert list(table.obs_names) == ["A+B"]
    np.testing.assert_allclose(table.X, residual)
    assert table.obs["rms"].iloc[0] == pytest.approx(np.sqrt(np.mean(residual**2)))
    r = scipy.stats.pearsonr(observed["A+B"].X[0], (observed["A"].X + observed["B"].X)[0])[0]
    assert table.obs["pearson"].iloc[0] == pytest.approx(r)
    found = wide(effect_scores(predicted, observed))["interaction_pearson"].dropna()
    expected = scipy.stats.pearsonr(interactions(predicted).X[0], residual[0])[0]
    assert found["A+B"] == found["pooled"] == pytest.approx(expected) and set(found.index) == {
        "A+B",
        "pooled",
        "median",
    }


def test_what_is_undefined_is_left_out(pair):
    predicted, observed = pair
    flat = predicted.copy()
    flat.X = np.zeros_like(flat.X)
    del flat.layers["variance"]
    found = effect_scores(flat, observed)
    assert found["value"].notna().all() and not set(found["score"]) & {"pearson", "cosine", "cpa_r2_variance"}
    one = effect_scores(predicted, observed, perturbations=["C"])
    assert set(one["perturbation"]) == {"C", "pooled", "median"}


def test_a_predicted_mean_below_zero_counts_as_zero_in_a_fold_change(pair):
    predicted, observed = (table.copy() for table in pair)
    predicted.X[0, 0] = -50.0
    found = wide(effect_scores(predicted, observed)).loc["A", "cosine_logfc"]
    predicted.X[0, 0] = -predicted.var["control"].iloc[0]
    assert found == wide(effect_scores(predicted, observed)).loc["A", "cosine_logfc"]


def test_intervals_narrow_with_their_level_and_hold_no_impossible_value():
    """Of a perfect prediction: no resample moves a correlation above 1, or an error below 0."""
    data = screen(1)
    observed = data_effects(data)
    table = effect_scores(observed, observed, data, resamples=40).set_index(["perturbation", "score"])
    for score, side, value in [
        ("pearson", "high", 1),
        ("r2", "high", 1),
        ("rmse", "low", 0),
        ("jaccard_top20", "high", 1),
    ]:
        assert table.loc[("A", score), side] == value
    assert table.loc[("A", "rmse_average"), "high"] > 0 and table.loc[("C", "r2"), "low"] < 1
    other = effect_scores(data_effects(screen(2)), observed, data, resamples=40)
    half = effect_scores(data_effects(screen(2)), observed, data, resamples=40, level=0.5)
    assert ((half["high"] - half["low"]) <= (other["high"] - other["low"])).all()
    assert (half["high"] - half["low"]).mean() < 0.6 * (other["high"] - other["low"]).mean()


def test_intervals_cover_the_mean_of_repeats():
    """30 repeats of an experiment against a fixed prediction: intervals of 95% cover the mean score over repeats at
    least 80% of the time (3.8 standard deviations below), and are at most 1.7 times as wide as the repeats'
    spread says; in 60 repeats they were 1.1 to 1.2 times as wide and covered 98%."""
    predicted = data_effects(screen(999, 400))
    runs = [effect_scores(predicted, data_effects(d), d, ["C"], 40) for d in map(screen, range(30))]
    table = pd.concat(runs).query("perturbation == 'C'").groupby("score")
    for score in ("pearson", "r2", "rmse"):
        rows = table.get_group(score)
        mean = rows["value"].mean()
        assert ((rows["low"] < mean) & (mean < rows["high"])).mean() >= 0.8, score
        assert 0.7 < (rows["high"] - rows["low"]).mean() / (2 * 1.96 * rows["value"].std()) < 1.7, score


@pytest.mark.parametrize("size", [0.3, 0.6])
def test_the_ceiling_is_what_the_truth_reaches(size):
    """The truth (40,000 cells) scores on 20 experiments of 200 cells, on average, what the mean ceiling says. In three
    sets of 30 experiments the two differed by at most 0.013; 0.03 is allowed."""
    truth = data_effects(screen(999, 40_000, size))
    experiments = [screen(seed, 200, size) for seed in range(20)]
    reached = pd.concat([effect_scores(truth, data_effects(data)) for data in experiments])
    ceilings = pd.concat([noise_ceiling(data, repeats=5) for data in experiments])
    reached, ceilings = (
        t.query("perturbation == 'pooled'").groupby("score")[column].mean()
        for t, column in ((reached, "value"), (ceilings, "ceiling"))
    )
    for score in ("pearson", "r2", "cosine", "rmse", "cpa_r2_mean", "cpa_r2_variance", "rmse_average"):
        assert reached[score] == pytest.approx(ceilings[score], abs=0.03), score
    assert reached["pearson"] < 0.96  # or there would be nothing to see


def test_ceilings_of_noise_are_zero_and_a_condition_of_one_cell_has_none():
    data = screen(1, size=0)
    lone = np.flatnonzero(data.labels == "B")[1:]
    table = noise_ceiling(data[np.setdiff1d(np.arange(len(data)), lone)], repeats=3)
    table = table.pivot(index="perturbation", columns="score", values="ceiling")
    assert set(table.index) == {"A", "A+B", "C", "pooled", "median"}
    bounded = table[["pearson", "pearson_top20", "cosine", "r2", "r2_top20"]]
    real = noise_ceiling(dataclasses.replace(data, counts=False), "mean", repeats=3)
    pd.testing.assert_frame_equal(real, noise_ceiling(data, "mean", repeats=3))
    assert bounded.notna().all(axis=None) and (bounded >= 0).all(axis=None) and (bounded == 0).any(axis=None)


def test_energy_and_mmd_are_those_of_scipy_and_scikit_learn():
    data = dataclasses.replace(make_data(), counts=False)
    one = dataclasses.replace(data, x=data.x.toarray()[:, :2], genes=data.genes[:2])
    rng = np.random.default_rng(0)
    drawn = anndata.AnnData(
        rng.normal(3, 1, (20, 2)).astype(np.float32),
        obs=pd.DataFrame({"perturbation": "A"}, index=[f"s{i}" for i in range(20)]),
        var=pd.DataFrame(index=list(one.genes)),
    )
    found = wide(cell_scores(drawn, one, "mean", resamples=20)).loc["A"]
    from sklearn.decomposition import TruncatedSVD

    basis = TruncatedSVD(1, random_state=0).fit(readouts(one, "mean"))
    x, y = basis.transform(one.x[one.labels == "A"]), basis.transform(drawn.X)
    biased = scipy.stats.energy_distance(x.ravel(), y.ravel()) ** 2  # SciPy counts pairs of a cell with itself
    within = sum(abs(a - a.T).sum() / len(a) ** 2 / (len(a) - 1) for a in (x, y))
    assert found["energy"] == pytest.approx(biased - within)
    kernel = lambda a, b: np.mean([rbf_kernel(a, b, 1 / (2 * s)) for s in BANDWIDTHS], axis=(1, 2)).sum()  # noqa: E731
    assert found["mmd"] == pytest.approx(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y), rel=1e-4)


def test_cells_of_the_same_law_are_near_and_others_far():
    data, other = screen(1, 400), screen(2, 400)
    generated = anndata.AnnData(
        other.x, obs=pd.DataFrame({"perturbation": other.labels}, index=other.cells), var=pd.DataFrame(index=data.genes)
    )
    near = cell_scores(generated, data, resamples=50).set_index(["perturbation", "score"])
    generated.obs["perturbation"] = generated.obs["perturbation"].map({"A": "B", "B": "A"})
    far = cell_scores(generated[generated.obs["perturbation"].notna()], data, resamples=50)
    far = far.set_index(["perturbation", "score"])
    for score in ("energy", "mmd"):
        assert far.loc[("pooled", score), "low"] > near.loc[("pooled", score), "high"]
    assert (near["low"] < near["value"]).all() and (near["value"] < near["high"]).all()
    each = near["value"].unstack()
    for score in ("energy", "mmd"):
        values = each.loc[["control", *LABELS], score]
        assert each.loc["pooled", score] == pytest.approx(values.mean())
        assert each.loc["median", score] == pytest.approx(values.median())


def test_cells_without_counts_are_left_out_and_no_more_are_compared_than_asked():
    data, other = screen(1), screen(2)
    x = np.vstack([np.zeros((3, GENES)), other.x.toarray()])
    names = pd.DataFrame({"perturbation": ["A"] * 3 + list(other.labels)}, index=[f"s{i}" for i in range(len(x))])
    generated = anndata.AnnData(x, obs=names, var=pd.DataFrame(index=data.genes))
    whole, empty = (cell_scores(cells, data, resamples=20) for cells in (generated[3:], generated))
    pd.testing.assert_frame_equal(whole, empty)
    few = cell_scores(generated, data, max_cells=8, resamples=20)
    assert (few["high"] - few["low"]).mean() > 1.5 * (whole["high"] - whole["low"]).mean()


def test_a_table_has_both_references_and_the_data_only_rows():
    data = screen(3, 400)
    asked = {"half": data_effects(data[:200])}, data, samslib.splits.random(seed=0)
    table = score_table(*asked, resamples=10)
    alone = score_table(*asked, resamples=10, references=["held out"])
    pd.testing.assert_frame_equal(alone, table.query("reference == 'held out'").reset_index(drop=True))
    with pytest.raises(ValueError, match=r"reference is 'test'; choose one of \['all cells', 'held out'\]"):
        score_table(*asked, references=["test"])
    with pytest.raises(ValueError, match="controls is 'val', but only the reference 'held out' chooses controls"):
        score_table(*asked, references=["all cells"], controls="val")
    assert set(table["reference"]) == {"all cells", "held out"}
    assert set(table["model"]) == {"half"} | {
        f"data: {n}" for n in ("training cells", "mean effect", "shrunken", "low rank")
    }
    pooled = table.query("perturbation == 'pooled' and score == 'pearson'").set_index(["reference", "model"])
    memorised = pooled["value"][:, "data: training cells"]
    assert memorised["all cells"] > pooled["ceiling"]["held out"].iloc[0] > memorised["held out"]
    assert (pooled["low"] < pooled["value"]).all() and table.attrs["controls"] == "test"


def test_a_table_says_how_much_of_a_prediction_is_its_own_noise():
    """A standard error of 0.5 everywhere, against the variance of the predicted effects over genes."""
    data = screen(3, 400)
    made = data_effects(data)
    noisy, sure = made.copy(), made.copy()
    noisy.layers["standard_error"] = np.full(made.shape, 0.5)
    del sure.layers["standard_error"]
    asked = {"noisy": noisy, "sure": sure}, data, samslib.splits.random(seed=0)
    table = score_table(*asked, resamples=2, data_only=False)
    assert table.query("model == 'sure'")["noise"].isna().all()
    found = table.query("model == 'noisy'").groupby("perturbation")["noise"].agg(["min", "max"])
    expected = {name: 0.25 / made[name].X.var() for name in made.obs_names}
    expected |= {"median": np.median(list(expected.values())), "pooled": 0.25 / made.X.var()}
    for name, value in expected.items():
        np.testing.assert_allclose(found.loc[name], value)


def test_the_reference_of_all_cells_leaks_and_controls_may_be_of_validation():
    data = screen(3, 400)
    split = samslib.splits.combinations(0.0, seed=0, test=1.0)
    table = score_table({}, data, split, resamples=5)
    assert set(table["perturbation"]) == {"A+B", "pooled", "median"} and table.attrs["controls"] == "val"


def test_no_argument_is_ignored(pair):
    predicted, observed = pair
    data = screen(2)
    few = {"resamples": 3}
    base = {"predicted": predicted, "observed": observed, "cells": data, **few}
    changes = {"resamples": 4, "seed": 1}
    assert not ignored(effect_scores, base, cells=None, perturbations=["A"], level=0.5, **changes)
    assert not ignored(
        noise_ceiling,
        {"cells": data, "repeats": 2, "within": ()},
        readout="mean",
        perturbations=["A"],
        repeats=3,
        seed=1,
    )
    base = {"predicted": {}, "data": screen(3), "split": samslib.splits.random(), "gene_of": None, **few}
    base |= {"within": ()}  # what it does is tested where there are lines, and guides
    options = {"part": "val", "readout": "mean", "controls": "val"}
    held = base | {"data_only": True, "references": ["held out"]}
    assert not ignored(score_table, held, **options, **changes)
    official = base | {"data_only": True, "controls": None}
    assert not ignored(score_table, official, part="val", readout="mean", references=["all cells"], **changes)
    one = base | {"predicted": {"other": observed}, "part": "val", "controls": "val", "references": ["held out"]}
    assert not ignored(score_table, one | {"readout": "perturbseq"}, data_only=False, **changes)
    generated = anndata.AnnData(
        screen(1).x, pd.DataFrame({"perturbation": screen(1).labels}, screen(1).cells), pd.DataFrame(index=data.genes)
    )
    base = {"generated": generated, "cells": data, **few}
    assert not ignored(cell_scores, base, readout="mean", components=3, max_cells=8, level=0.5, **changes)


def test_moments_of_all_cells_are_the_observed_table(pair):
    """What resamples and halves are scored by, of resamples that name every cell once."""
    data, table = screen(2), pair[1]
    whole, same = _Cells(data, "perturbseq").moments(np.arange(len(data))), _moments(table)
    for part in ("mean", "variance"):
        np.testing.assert_allclose(getattr(whole, part), getattr(same, part), atol=1e-12)


def test_errors_say_what_is_wrong(pair):
    predicted, observed = pair
    data = screen(2)
    for arguments, message in [
        ((data_effects(screen(1), "mean"), observed), "readout 'mean', observed ones of 'perturbseq'"),
        ((predicted[:, :5], observed), "different genes"),
        ((predicted[["A"]], observed[["B"]]), "share no perturbation"),
        ((predicted, observed, screen(1)), "do not have the observed effects"),
        ((predicted, observed, data, ["D"]), "no predicted effect of 'D'"),
    ]:
        with pytest.raises(ValueError, match=message):
            effect_scores(*arguments)
    with pytest.raises(ValueError, match="share no condition"):
        cell_scores(anndata.AnnData(data.x, pd.DataFrame({"perturbation": "Z"}, index=data.cells), observed.var), data)
    assert effect_table(data, ["A"], np.zeros((1, GENES)), {}, (np.zeros(GENES),) * 2, {}).shape == (1, GENES)


def test_the_kinds_of_interaction_and_their_slope():
    """Pairs that are by construction 1, 0.5, 1.5 and, of alike parts, 0.5 and 1 times the sum of these, with noise of
    which the slope's interval must not leave the truth: the chance that one of five 95% intervals does is under a
    quarter, and the seed is fixed."""
    data = screen(0)
    observed = data_effects(data)
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(size=GENES) for name in "abcdefg"}
    parts["h"] = parts["g"] + 0.2 * rng.normal(size=GENES)
    parts["i"] = parts["g"] + 0.2 * rng.normal(size=GENES)
    truth = {"a+b": 1.0, "c+d": 0.5, "e+f": 1.5, "g+h": 0.5, "g+i": 1.0}
    pairs = {p: s * (parts[p[0]] + parts[p[2]]) + 0.1 * rng.normal(size=GENES) for p, s in truth.items()}
    rows = parts | pairs
    table = effect_table(
        data, list(rows), np.stack(list(rows.values())), {}, (np.zeros(GENES),) * 2, observed.uns["samslib"]
    )
    table.uns["samslib"]["separator"] = "+"
    found = interaction_classes(table).loc[list(truth)]
    assert found["class"].tolist() == ["additive", "buffering", "synergistic", "redundant", "additive"]
    assert (found["low"] < list(truth.values())).all() and (found["high"] > list(truth.values())).all()
    x = parts["c"] + parts["d"]
    assert found.loc["c+d", "s"] == pytest.approx(np.linalg.lstsq(x[:, None], pairs["c+d"], rcond=None)[0][0])
    expected = cosine_similarity([parts["g"]], [parts["h"]])[0, 0]
    assert found.loc["g+h", "cosine"] == pytest.approx(expected) and expected > 0.9


def test_the_slopes_interval_allows_errors_that_grow_with_the_effect():
    """400 additive pairs over 200 genes, with errors in proportion to the sum of the parts: 95% intervals cover a slope
    of 1 in 94%, give or take 1.2 (standard deviation); those for errors of one size would in 75%, 90% ones in 89%."""
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(800, 200))
    total = parts[:400] + parts[400:]
    pairs = total + 0.5 * np.abs(total) * rng.normal(size=total.shape)
    names = [f"{part}{i}" for part in "ab" for i in range(400)] + [f"a{i}+b{i}" for i in range(400)]
    table = anndata.AnnData(
        np.vstack([parts, pairs]), obs=pd.DataFrame(index=names), uns={"samslib": {"separator": "+"}}
    )
    found = interaction_classes(table)
    assert len(found) == 400 and ((found["low"] < 1) & (1 < found["high"])).mean() == pytest.approx(0.94, abs=0.03)


def runs(*rows: tuple) -> pd.DataFrame:
    columns = ["task", "model", "encoding", "fraction", "split", "seed", "test IWELBO"]
    return pd.DataFrame(rows, columns=columns, index=range(10, 10 + len(rows)))


def test_bounds_are_relative_to_the_baseline_of_the_same_task_split_and_seed():
    rows = runs(
        ("pairs", "SAMS-VAE", "unique", 0.0, 0, 0, -9.0),
        ("pairs", "SAMS-VAE", "compositional", 0.0, 0, 0, -10.0),
        ("pairs", "SAMS-VAE", "compositional", 0.5, 0, 0, -8.0),
        ("pairs", "CPA-VAE", "compositional", 0.0, 0, 0, -11.5),
        ("pairs", "CPA-VAE", "compositional", 0.0, 1, 0, -30.0),
        ("pairs", "CPA-VAE", "compositional", 0.0, 0, 1, -30.0),
        ("cells", "CPA-VAE", "compositional", 0.0, 0, 0, -30.0),
        ("pairs", "SAMS-VAE", "compositional", 0.0, 1, 0, -28.0),
    )
    found = relative_bound(rows)["relative test IWELBO"]
    np.testing.assert_array_equal(found, [1.0, 0.0, 2.0, -1.5, -2.0, np.nan, np.nan, 0.0])
    assert relative_bound(relative_bound(rows)).equals(relative_bound(rows))
    assert relative_bound(rows.iloc[:0])["relative test IWELBO"].empty


def test_a_baseline_is_run_once_and_rows_have_their_columns():
    row = ("pairs", "SAMS-VAE", "compositional", 0.0, 0, 0, -10.0)
    with pytest.raises(ValueError, match="was run twice"):
        relative_bound(runs(row, row))
    with pytest.raises(ValueError, match="no column 'encoding'"):
        relative_bound(runs(row).drop(columns="encoding"))


def published_and_ours() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A published row each of a bound and two correlations, and two splits of ours, one of them with two seeds."""
    same = {"task": "pairs", "unique": False, "fraction": 0.5, "n": 5}
    published = pd.DataFrame(
        [
            {**same, "model": "CPA-VAE", "metric": "relative test IWELBO", "mean": 2.7, "std": 0.5},
            {**same, "model": "CPA-VAE", "metric": "ATE pearson", "mean": 0.69, "std": 0.02},
            {**same, "model": "CPA-VAE", "metric": "ATE pearson, top 20", "mean": 0.90, "std": 0.02},
            {**same, "model": "CPA-VAE", "metric": "ATE pearson", "mean": 0.70, "std": 0.02, "unique": True},
            {**same, "model": "SAMS-VAE", "metric": "relative test IWELBO", "mean": 0.0, "std": 0.0, "fraction": 0.0},
        ]
    )
    rows = [("SAMS-VAE", 0.0, 0, 0, -10.0), ("SAMS-VAE", 0.0, 0, 1, -11.0), ("SAMS-VAE", 0.0, 1, 0, -30.0)]
    rows += [("CPA-VAE", 0.5, 0, 0, -7.0), ("CPA-VAE", 0.5, 0, 1, -8.0), ("CPA-VAE", 0.5, 1, 0, -26.0)]
    ours = runs(*(("pairs", model, "compositional", *rest) for model, *rest in rows))
    ours["pearson official"] = [0.0, 0.0, 0.0, 0.60, 0.64, 0.66]
    ours["pearson_top20 official"] = [0.0, 0.0, 0.0, 0.80, 0.80, 0.81]
    return published, ours.assign(steps=30_000)


def test_verdicts_compare_means_over_splits_with_their_errors():
    """Relative bounds are 3, 3 and 4: splits 3 and 4, mean 3.5 and sd 0.71, off by 0.8, 1.5 errors of sqrt(0.25 / 5 +
    0.5 / 2) = 0.55. Correlations are 0.62 and 0.66, off by 0.05, 2.3 errors of sqrt(0.0004 / 5 + 0.0008 / 2) = 0.022.
    """
    found = verdicts(*published_and_ours())
    assert list(found["verdict"]) == ["reproduced", "differs", "differs", "not run at full size"]
    assert list(found["splits"]) == [2, 2, 2, 0] and found.loc[3, "encoding"] == "unique"
    np.testing.assert_allclose(found["ours"], [3.5, 0.64, 0.805, np.nan])
    np.testing.assert_allclose(found["ours sd"][:2], [np.sqrt(0.5), np.sqrt(0.0008)])


def test_short_runs_single_splits_and_nothing_are_not_run_at_full_size():
    published, ours = published_and_ours()
    for rows in (None, ours.assign(steps=500), ours[ours["split"] == 0]):
        assert set(verdicts(published, rows)["verdict"]) == {"not run at full size"}


def test_errors_are_weighed_against_posterior_and_noise(pair):
    predicted, observed = (table.copy() for table in pair)
    predicted.layers["posterior_variance"] = np.full(predicted.shape, 0.5)
    predicted.layers["posterior_variance"][predicted.obs_names == "A", 3] = -0.5
    observed.layers["standard_error"][0, 0] = 0.0
    found = posterior_errors(predicted[["C", "A"]], observed).set_index(["perturbation", "gene"])
    at = ("C", "g7")
    u, w = (float(table["C", "g7"].X[0, 0]) for table in (predicted, observed))
    noise = sum(float(table["C", "g7"].layers["standard_error"][0, 0]) ** 2 for table in (predicted, observed))
    assert found.loc[at, "error"] == pytest.approx(u - w) and found.loc[at, "noise"] == pytest.approx(noise)
    for kind, variance in (("noise", noise), ("posterior", noise + 0.5)):
        expected = 2 * scipy.stats.norm.sf(abs(u - w), scale=np.sqrt(variance))
        assert found.loc[at, f"p_{kind}"] == pytest.approx(expected)
    assert found.loc[("A", "g3"), "p_posterior"] == found.loc[("A", "g3"), "p_noise"]  # as unbiased variances may be
    first = (LABELS[0], "g0")
    assert np.isnan(found.loc[first, ["p_noise", "p_posterior"]]).all() and len(found) == 2 * GENES
