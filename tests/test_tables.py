"""Readouts, and the names and doses of a table's rows."""

import pytest
import torch
from conftest import linear_data, make_data

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
