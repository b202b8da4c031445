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
from samslib.observed import conditions, halves, readouts, reference_cells, replicates


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
    assert set(far[np.isin(data.cells, borrowed.cells) & (data.guides == 0)]) == {"val"}
    assert set(far[np.isin(data.cells, borrowed.cells) & (data.guides > 0)]) == {"test"}
    assert len(reference_cells(data, "test", lambda d: words)) == 30
    told = data_effects(data, reference="test", split=far, controls="val").uns["samslib"]
    assert told["control_cells"] == 6 and told["median_library"] == np.median(borrowed.library) != np.median(
        data.library
    )
    base = {"data": data, "split": words, "reference": "test"}
    assert not ignored(data_effects, base, readout="mean", reference="val", split=np.roll(words, 5), controls="val")
    for arguments, message in [
        ({"reference": "test"}, "part of a split"),
        ({"reference": "rest", "split": words}, "reference is 'rest'"),
        ({"reference": "test", "split": far}, "no control cells.*controls='val'"),
        ({"readout": "rank"}, "readout is 'rank'"),
    ]:
        with pytest.raises(ValueError, match=message):
            data_effects(data, **arguments)


def test_cells_without_counts_are_an_error():
    data = make_data()
    x = data.x.copy()
    x.data[x.indptr[3] : x.indptr[5]] = 0
    with pytest.raises(samslib.data.DataError, match="2 of 90 cells have no counts"):
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
