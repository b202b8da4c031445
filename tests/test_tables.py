"""Readouts, and the names and doses of a table's rows."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import linear_data, make_data, make_model

import samslib
from samslib import by_target, data_effects
from samslib.evaluate.tables import arms, choose_readout, effect_table, perturbseq


def test_the_readout_is_of_shares_and_an_empty_cell_reads_as_zero():
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    expected = torch.tensor([[2501.0, 7501.0], [1.0, 1.0]]).log2()
    torch.testing.assert_close(perturbseq(x), expected)


def test_shares_of_real_values_are_refused():
    with pytest.raises(ValueError, match="these data are real values; give readout='mean'"):
        choose_readout("perturbseq", linear_data())
    assert choose_readout("mean", linear_data())(7) == 7


def test_rows_are_named_once_each():
    labels, dose = arms(make_data(), ["B+A", {"C": 2}])
    assert labels == ["A+B", "C=2"] and dose.tolist() == [[1, 1, 0], [0, 0, 2]]
    for asked, message in [
        ("A", "give a list of names"),
        ([], "is empty"),
        (["A+B", "B+A"], "'A[+]B' is asked for twice"),
    ]:
        with pytest.raises(ValueError, match=message):
            arms(make_data(), asked)


def test_a_table_has_its_rows_genes_and_settings():
    data = make_data()
    zero = torch.zeros(1, 12).numpy()
    table = effect_table(data, ["A"], zero, {"variance": zero}, (zero[0], zero[0]), {"readout": "mean"})
    assert list(table.obs_names) == ["A"] and list(table.var_names) == list(data.genes)
    assert table.uns["samslib"] == {"readout": "mean", "separator": "+"} and set(table.layers) == {"variance"}


def guides_of_genes(seed: int = 0, unequal: float = 1.0) -> samslib.PerturbationData:
    """Counts of 40 controls and 10 to 40 cells each of P1_a, P1_b, P2_a and P2_b, b being `unequal` times as strong."""
    rng = np.random.default_rng(seed)
    sizes = {"control": 40, "P1_a": 10, "P1_b": 30, "P2_a": 40, "P2_b": 20}
    labels = np.repeat(list(sizes), list(sizes.values()))
    rate = np.full((len(labels), 5), 6.0)
    for target, gene in {"P1": 0, "P2": 1}.items():
        rate[labels == f"{target}_a", gene] *= 2
        rate[labels == f"{target}_b", gene] *= 2 * unequal
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(len(labels))])
    adata = anndata.AnnData(rng.poisson(rate).astype(np.float32), obs=obs)
    return samslib.PerturbationData.from_anndata(adata, target=lambda name: name.split("_")[0])


def test_effects_of_targets_are_those_of_all_their_cells():
    """As if the cells had been labelled by target; variances but for the division by n - 1 (2%)."""
    data = guides_of_genes(unequal=0.2)
    found = by_target(data_effects(data, "mean"), data)
    labels = np.array([label.split("_")[0] for label in data.labels], dtype=object)
    obs = pd.DataFrame({"perturbation": labels}, index=data.cells)
    pooled = data_effects(samslib.PerturbationData.from_anndata(anndata.AnnData(data.x, obs=obs)), "mean")
    assert list(found.obs_names) == list(pooled.obs_names) == ["P1", "P2"] and found.obs["guides"].tolist() == [2, 2]
    np.testing.assert_allclose(found.X, pooled.X)
    assert found.obs["cells"].tolist() == pooled.obs["cells"].tolist() == [40, 60]
    np.testing.assert_allclose(found.layers["variance"], pooled.layers["variance"], rtol=0.06)
    assert (samslib.effect_scores(found, pooled).query("score == 'rmse'")["value"] < 1e-12).all()


def test_standard_errors_of_targets_are_their_spread():
    """Over 400 repeats within 15%: a standard deviation of so many has a standard error of 3.5%, and one of ten would
    be off by 4.2 of these in 3 of 10,000 tests."""
    tables = [by_target(data_effects(data, "mean"), data) for data in map(guides_of_genes, range(400))]
    spread = np.std([table.X for table in tables], axis=0, ddof=1)
    said = np.sqrt(np.mean([table.layers["standard_error"] ** 2 for table in tables], axis=0))
    np.testing.assert_allclose(spread, said, rtol=0.15)


def test_weights_of_guides():
    """By cells of the data given, alike for a mapping and where no guide has a cell; a guide that weighs nothing may
    have no variance; pairs are of pairs of targets; a model's errors are bounded by their mean."""
    data = guides_of_genes()
    table = data_effects(data)
    first = table["P1_a"].X[0], table["P1_b"].X[0]
    np.testing.assert_allclose(by_target(table, data)["P1"].X[0], (first[0] + 3 * first[1]) / 4)
    equal = by_target(table, lambda name: name.split("_")[0])
    np.testing.assert_allclose(equal["P1"].X[0], np.mean(first, axis=0))
    for part in (data.labels != "P1_a", np.char.find(data.labels.astype(str), "P1") < 0):
        table.layers["variance"][0] = np.nan if part.sum() == 130 else 1
        assert np.isfinite(by_target(table, data[part]).layers["variance"]).all()
    np.testing.assert_allclose(by_target(table, data[part])["P1"].X, equal["P1"].X)
    pairs = replace(make_data(), targets=("first", "second", "first"))
    model = make_model("sams_vae sparse", pairs.summary())
    made = samslib.average_effects(model, pairs, ["A", "C", "A+B", "B"], particles=20)
    joined = by_target(made, pairs)
    assert list(joined.obs_names) == ["first", "first+second", "second"] and joined.obs["guides"].tolist() == [2, 1, 1]
    error = made.layers["standard_error"]
    np.testing.assert_allclose(joined["first"].layers["standard_error"][0], error[:2].mean(0))
    assert joined.obs["training_cells"].tolist() == [54, 36, 36] and not joined.obs["untrained"].any()
    assert list(samslib.interactions(joined).obs_names) == ["first+second"]
    assert len(samslib.effect_scores(joined, by_target(data_effects(pairs), pairs)))


def test_rows_without_a_target_are_refused():
    table = data_effects(guides_of_genes())
    with pytest.raises(samslib.DataError, match=r"2 perturbations have no target \(P2_a, P2_b\)"):
        by_target(table, {"P1_a": "P1", "P1_b": "P1"})
    with pytest.raises(samslib.DataError, match="The perturbations have no targets"):
        by_target(table, make_data())
    with pytest.raises(samslib.DataError, match="'P1_a' in 'P1_a' is not one of data.perturbations"):
        by_target(table, replace(make_data(), targets=("first", "second", "first")))
