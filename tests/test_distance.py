from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL, make_data

import samslib
from samslib import CPA, distance_to_training


def graded() -> samslib.PerturbationData:
    """A at 1 (12 cells) and 3 (3), B at 1 (12), B+A at 2 and 0.5 (12), control (12)."""
    names = ["control"] * 12 + ["A"] * 15 + ["B"] * 12 + ["B+A"] * 12
    doses = ["0"] * 12 + ["1"] * 12 + ["3"] * 3 + ["1"] * 12 + ["2+0.5"] * 12
    adata = anndata.AnnData(np.full((len(names), 4), 2.0, dtype=np.float32))
    adata.obs = pd.DataFrame({"perturbation": names, "dose": doses}, index=adata.obs_names)
    return samslib.PerturbationData.from_anndata(adata, dose="dose")


def model_of(data, embedding, **options):
    model = CPA(data.summary(), dose_curve="linear", **SMALL | {"latent": len(embedding[0])}, **options)
    with torch.no_grad():
        model.embedding.copy_(torch.tensor(embedding))
    return model


def test_distances_of_known_embeddings():
    data = graded()
    model = model_of(data, [[3.0, 0.0], [0.0, 2.0]])
    table = distance_to_training(
        model, data, ["A", {"A": 2}, {"B": 2, "A": 0.5}, {"A": 0.5, "B": 2}, "control"], min_cells=6
    )
    assert list(table.index) == ["A", "A=2", "A=0.5+B=2", "A=0.5+B=2", "control"]
    np.testing.assert_allclose(table["euclidean"], [0, 3, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(table["cosine"], [0, 0, 0, 0, 1], atol=1e-6)
    assert list(table["nearest_euclidean"]) == ["A", "A", "A=0.5+B=2", "A=0.5+B=2", "control"]
    assert list(table["nearest_cosine"]) == ["A", "A", "A=0.5+B=2", "A=0.5+B=2", "control"]


def test_of_conditions_that_tie_the_one_nearer_by_the_other_distance_is_named():
    """All doses of A lie in one direction, so 1 and 3 tie in the cosine but for rounding."""
    data = graded()
    model = model_of(data, [[0.3, 0.7], [0.0, 2.0]])
    far = [{"A": dose} for dose in (2.1, 2.3, 2.7, 2.9, 3.3)]
    near = [{"A": dose} for dose in (0.3, 0.7, 1.1, 1.9)]
    table = distance_to_training(model, data, far + near, min_cells=3)
    assert table["nearest_cosine"].tolist() == ["A=3"] * 5 + ["A"] * 4


def test_only_conditions_with_as_many_cells_as_asked_count():
    data = graded()
    model = model_of(data, [[3.0, 0.0], [0.0, 2.0]])
    query = [{"A": 3}]
    assert distance_to_training(model, data, query, min_cells=3)["euclidean"].item() == 0
    assert distance_to_training(model, data, query, min_cells=4)["euclidean"].item() == 6
    with pytest.raises(ValueError, match="31 cells or more.*largest has 12"):
        distance_to_training(model, data, query)


def test_covariates_are_part_of_a_condition():
    data = make_data(300, covariates=True)
    model = model_of(data, np.eye(3, 3).tolist())
    with torch.no_grad():
        model.covariate_embedding.copy_(torch.tensor([[0.0, 0, 5], [0, 0, 0], [0, 5, 0]]))
    table = distance_to_training(model, data, ["A"], ["line=y", "plate=1"], min_cells=6)
    assert (
        table.index[0] == table["nearest_euclidean"].item() == "A [plate=1, line=y]" or table["euclidean"].item() < 1e-6
    )
    some = data[(data.labels != "A") | (data.covariate[:, 0] == 1)]  # A of one line only
    far = distance_to_training(model, some, ["A"], ["line=y", "plate=1"], min_cells=6)
    assert far["euclidean"].item() > 0.9
    for levels, message in [(["line=y"], "one level of each"), (["line=z", "plate=1"], "'line=z' is no level")]:
        with pytest.raises(ValueError, match=message):
            distance_to_training(model, data, ["A"], levels)


def test_what_cannot_be_asked_is_refused():
    data = make_data(300)
    with pytest.raises(ValueError, match="SAMSVAE has no embedding"):
        distance_to_training(samslib.SAMSVAE(data.summary(), **SMALL), data, ["A"])
    model = model_of(data, np.eye(3, 3).tolist())
    with pytest.raises(ValueError, match="'D'"):
        distance_to_training(model, data, ["D"])
    with pytest.raises(ValueError, match="dose of 'A' is -1"):
        distance_to_training(model, data, [{"A": -1}])
