"""Data effects against the official numbers, their errors against repeats, and who is in a reference."""

from __future__ import annotations

import dataclasses

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, ignored, make_data

import samslib
from samslib import data_effects
from samslib.evaluate.observed import conditions, halves, readouts, reference_cells, replicates
from samslib.validation import DataError


def cells_of(x, labels, control="control"):
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    return samslib.PerturbationData.from_anndata(anndata.AnnData(np.asarray(x, np.float32), obs=obs), control=control)


@pytest.mark.parametrize("readout", ["mean", "perturbseq"])
def test_data_effects_are_the_official_ones(readout, record_property):
    with np.load(ROOT / "tests" / "golden" / "ate_data.npz") as golden:
        effects = data_effects(cells_of(golden["X"], golden["labels"], "non-targeting"), readout)
        ours = effects[golden["pert_order"]].X
        difference = np.abs(ours - golden[f"ate_{readout}"]).max()
    record_property("golden", f"ate_data {readout}: largest difference {difference:.1e} (official in float32)")
    assert difference < 5e-6


def test_errors_and_variances_are_those_of_two_samples():
    data = make_data(28)
    effects, g = data_effects(data), readouts(data).toarray()
    c = g[data.labels == "control"]
    for i, name in enumerate(effects.obs_names):
        a = g[data.labels == name]
        error = np.sqrt(a.var(0, ddof=1) / len(a) + c.var(0, ddof=1) / len(c))
        np.testing.assert_allclose(effects.layers["standard_error"][i], error)
        np.testing.assert_allclose(effects.layers["variance"][i], a.var(0, ddof=1))
    np.testing.assert_allclose(effects.var["control"], c.mean(0))
    np.testing.assert_allclose(effects.var["control_variance"], c.var(0, ddof=1))
    assert effects.obs["cells"].tolist() == [6, 5, 6, 5] and list(effects.obs_names) == ["A", "A+B", "B", "C"]


def test_one_cell_has_a_mean_and_no_variance_and_a_constant_gene_no_error():
    """The mean of seven squares of 2.3 rounds to less than the square of the mean: a variance is 0 at the least."""
    x = np.column_stack([np.full(16, 2.3), np.arange(16)])
    labels = ["control"] * 7 + ["A"] * 8 + ["B"]
    cells = dataclasses.replace(cells_of(10 * x, labels), x=x, counts=False)
    effects = data_effects(cells, "mean")
    assert np.isnan(effects["B"].layers["variance"]).all() and np.isnan(effects["B"].layers["standard_error"]).all()
    assert effects["B"].X[0, 1] == 15 - 3 and effects["A"].layers["standard_error"][0, 0] == pytest.approx(0, abs=1e-7)
    first, second = next(halves(cells, "mean", 1))
    assert np.isnan(second.mean[2]).all() and first.mean[2].tolist() == x[15].tolist()


def test_real_values_have_their_mean_only():
    data = dataclasses.replace(make_data(), counts=False)
    dense = dataclasses.replace(data, x=data.x.toarray())
    np.testing.assert_allclose(data_effects(data, "mean").X, data_effects(dense, "mean").X)
    with pytest.raises(ValueError, match="perturbseq.*real values"):
        data_effects(data)


def test_the_reference_says_which_cells_count():
    data = make_data()
    words = np.array(["train", "val", "test"])[np.arange(90) // 5 % 3]
    test = data_effects(data, reference="test", split=words)
    np.testing.assert_array_equal(test.X, data_effects(data[words == "test"]).X)
    far = words.copy()
    far[(data.labels == "control") & (words == "test")] = "train"
    borrowed = reference_cells(data, "test", far, controls="val")
    assert set(far[np.isin(data.cells, borrowed.cells) & (data.n_perturbations == 0)]) == {"val"}
    assert set(far[np.isin(data.cells, borrowed.cells) & (data.n_perturbations > 0)]) == {"test"}
    assert len(reference_cells(data, "test", lambda d: words)) == 30
    told = data_effects(data, reference="test", split=far, controls="val").uns["samslib"]
    assert told["control_cells"] == 6 and told["median_library"] == np.median(borrowed.library) != np.median(
        data.library
    )
    base = {"data": data, "split": words, "reference": "test", "within": ()}
    assert not ignored(data_effects, base, readout="mean", reference="val", split=np.roll(words, 5), controls="val")
    for arguments, message in [
        ({"reference": "test"}, "part of a split"),
        ({"reference": "rest", "split": words}, "reference is 'rest'"),
        ({"split": words}, "split is given, but reference='all cells' is no part of it"),
        ({"reference": "test", "split": far}, "no control cells.*controls='val'"),
        ({"readout": "rank"}, "readout is 'rank'"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_effects(data, **arguments)


def test_cells_without_counts_are_an_error():
    data = make_data()
    x = data.x.copy()
    x.data[x.indptr[3] : x.indptr[5]] = 0
    with pytest.raises(samslib.DataError, match="2 of 90 cells have no counts"):
        data_effects(dataclasses.replace(data, x=x))


def test_resamples_are_of_each_condition_and_as_spread_as_its_mean():
    """400 resamples: the spread of a mean is within 25% of its standard error for all 60 of them (a chance of failing
    below 1e-6, were they independent and normal: 7 standard deviations)."""
    data = make_data(cells=300)
    names, code = conditions(data)
    g = readouts(data).toarray()
    drawn = list(replicates(data, "perturbseq", 400))
    means = np.stack([m.mean for m in drawn])
    expected = np.stack([g[code == i].std(0) / np.sqrt((code == i).sum()) for i in range(len(names))])
    assert abs(means.std(0) / expected - 1).max() < 0.25
    assert all((m.size == 60).all() for m in drawn[:3])
    again = next(replicates(data, "perturbseq", 1))
    np.testing.assert_array_equal(again.mean, means[0])


def test_halves_are_disjoint_and_make_the_whole():
    data = make_data(cells=91)
    whole = next(halves(data, "mean", 1))
    _, code = conditions(data)
    size = np.bincount(code)
    assert (whole[0].size + whole[1].size == size).all() and (whole[0].size - whole[1].size == size % 2).all()
    both = sum(half.mean * half.size[:, None] for half in whole) / size[:, None]
    x = data.x.toarray()
    np.testing.assert_allclose(both, np.stack([x[code == i].mean(0) for i in range(len(size))]), rtol=1e-6)
    first, again = halves(data, "mean", 2)
    assert (first[0].mean == whole[0].mean).all() and (first[0].mean != again[0].mean).any(1).all()


def lines_data(seed: int, shift: float = 4.0, effect: float = 2.0, cells: int = 900, unequal: bool = True):
    """Real values of two lines that differ by `shift` in every gene; A adds `effect` and is given mostly in line y, B
    does nothing, one cell in three is a control and those are mostly of line x."""
    rng = np.random.default_rng(seed)
    label = np.array(["control", "A", "B"])[np.arange(cells) % 3]
    share = {"control": 0.2, "A": 0.8, "B": 0.6} if unequal else dict.fromkeys(("control", "A", "B"), 0.5)
    y = rng.random(cells) < np.vectorize(share.get)(label)
    x = rng.normal(size=(cells, 6)) + shift * y[:, None] + effect * (label == "A")[:, None]
    obs = pd.DataFrame({"perturbation": label, "line": np.where(y, "y", "x")}, index=[f"c{i}" for i in range(cells)])
    return samslib.PerturbationData.from_anndata(anndata.AnnData(x, obs=obs), covariates="line", counts=False)


def test_within_levels_a_difference_between_lines_is_no_effect():
    """Lines differ by 4, A does 2: pooled it seems to do 4.4. Standard errors are about 0.06; five of them allowed."""
    data = lines_data(0)
    with pytest.warns(UserWarning, match=r"differ in 'line' \(most for 'A'\).*within=\['line'\]"):
        pooled = data_effects(data, "mean")
    table = data_effects(data, "mean", within="line")
    assert (pooled["A"].X > 4).all() and (np.abs(table["A"].X - 2) < 0.35).all() and (np.abs(table["B"].X) < 0.35).all()
    assert table.uns["samslib"]["within"] == "line"
    x, line, label = data.x, data.covariate[:, 0].astype(bool), data.labels
    gaps = [x[(label == "A") & of].mean(0) - x[(label == "control") & of].mean(0) for of in (line, ~line)]
    share = line[label == "A"].mean()
    np.testing.assert_allclose(table["A"].X[0], share * gaps[0] + (1 - share) * gaps[1], rtol=1e-6)


def test_standard_errors_within_levels_hold():
    """Over 40 data sets of 6 genes, errors divided by their standard errors have variance 1: that of 240 independent
    Normal draws lies in 0.72 to 1.33 in 999 of 1,000."""
    z = []
    for seed in range(40):
        table = data_effects(lines_data(seed), "mean", within=["line"])
        z.append((table["A"].X - 2) / table["A"].layers["standard_error"])
    assert 0.72 < np.mean(np.square(z)) < 1.33


def test_resamples_and_halves_are_within_levels_too():
    """Their spread around the effects is that of the standard error, and no resample brings the lines' gap back."""
    data = lines_data(1)
    table = data_effects(data, "mean", within="line")
    effects = np.array([m.mean[1:] - m.mean[0] for m in replicates(data, "mean", 200, within=["line"])])
    assert np.abs(effects.mean(0) - table.X).max() < 0.03
    np.testing.assert_allclose(effects.std(0).mean(), table.layers["standard_error"].mean(), rtol=0.15)
    a, b = next(halves(data, "mean", 1, within=["line"]))
    assert np.abs(a.mean[1] - a.mean[0] - 2).max() < 0.6 and np.abs(b.mean[1] - b.mean[0] - 2).max() < 0.6
    scores = samslib.effect_scores(table, table, data, resamples=5)
    assert (scores.query("score == 'rmse'")["value"] == 0).all()
    asked = {"readout": "mean", "resamples": 3, "within": "line"}
    words = np.array(["train", "val", "test"])[np.arange(len(data)) // 3 % 3]
    memory = samslib.score_table({}, data, words, **asked).query("model == 'data: training cells' and score == 'rmse'")
    assert (memory["value"] < 0.5).all() and (memory["ceiling"] < 0.5).all()


def test_lines_in_equal_shares_are_no_warning(recwarn):
    for seed in range(20):
        data_effects(lines_data(seed, unequal=False), "mean")
    assert not len(recwarn)


def test_a_rare_level_among_many_small_conditions_is_no_warning(recwarn):
    """200 conditions of 5 cells, 2% of all cells in line y, at random: of 40 data sets a chi-square approximation would
    warn of about half; the exact tests of at most 1 in 1,000."""
    rng = np.random.default_rng(0)
    label = np.array(["control"] * 500 + [f"P{i:03d}" for i in range(200) for _ in range(5)])
    obs = pd.DataFrame({"perturbation": label}, index=[f"c{i}" for i in range(len(label))])
    for _ in range(40):
        obs["line"] = np.where(rng.random(len(label)) < 0.02, "y", "x")
        adata = anndata.AnnData(np.ones((len(label), 2)), obs=obs)
        data_effects(samslib.PerturbationData.from_anndata(adata, covariates="line", counts=False), "mean")
    assert not len(recwarn)


def test_levels_that_cannot_be_compared_are_refused():
    data = lines_data(0)
    with pytest.raises(DataError, match="no covariate 'lines'; did you mean 'line'"):
        data_effects(data, "mean", within="lines")
    treated_only = data[(data.n_perturbations > 0) | (data.covariate[:, 0] == 1)]
    with pytest.raises(DataError, match="perturbed cells of line=y have no control cells"):
        data_effects(treated_only, "mean", within="line")
