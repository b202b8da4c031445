"""No column of the cells is ever read as another one: aligned by name, or refused, wherever cells meet a model."""

from __future__ import annotations

import logging
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_data, make_model

import samslib
from samslib import PerturbationData, align, training
from samslib.validation import DataError

QUICK = {"steps": 2, "batch_size": 32, "progress": False}
# Everything that feeds cells to a trained model, as (model, data) -> numbers.
READERS = {
    "average_effects": lambda m, d: samslib.average_effects(m, d, ["A", "C"], particles=30).X,
    "posterior_effects": lambda m, d: samslib.evaluate.effects.posterior_effects(m, d, ["A", "C"], draws=4, cells=2).X,
    "sample_cells": lambda m, d: samslib.sample_cells(m, d, ["A", "C"], cells=4).X.toarray(),
    "counterfactual": lambda m, d: samslib.counterfactual(m, d, "C", particles=2),
    "counterfactual_cells": lambda m, d: samslib.counterfactual_cells(m, d, "C").X.toarray(),
    "latents": lambda m, d: samslib.latents(m, d, particles=2)["z_basal"],
    "held_out_iwelbo": lambda m, d: samslib.held_out_iwelbo(m, d, particles=3)["iwelbo"].to_numpy(),
    "bound_spread": lambda m, d: samslib.bound_spread(m, d, particles=3, repeats=2)["iwelbo"].to_numpy(),
    "bound_by_particles": lambda m, d: samslib.bound_by_particles(m, d, [1, 4])["iwelbo"].to_numpy(),
    "predictive_check": lambda m, d: samslib.predictive_check(
        m, d, ["effect"], ["gene0", "gene1"], replicates=4, resamples=4
    )["replicated_mean"],
    "validate": lambda m, d: np.array(list(training.validate(m, d, particles=2).values())),
    "fit": lambda m, d: samslib.fit(m, d, config=samslib.FitConfig(**QUICK))["loss"].to_numpy(),
}


@pytest.fixture
def sams(data):
    """A model whose genes and perturbations all differ, as after training."""
    model = make_model("sams_vae", data.summary())
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def shuffled(data, drop: str | None = None) -> PerturbationData:
    """The same cells made anew, genes reversed, an extra gene added, perturbations in another order."""
    genes = [*data.genes[::-1], "extra"]
    x = np.hstack([data.x.toarray()[:, ::-1], np.ones((len(data), 1))])
    adata = anndata.AnnData(x, obs=pd.DataFrame({"perturbation": data.labels}, index=data.cells))
    adata.var_names = genes
    made = PerturbationData.from_anndata(adata)
    made = replace(made, perturbations=made.perturbations[::-1], dose=made.dose[:, ::-1].tocsr())
    return made if drop is None else made[made.labels != drop]


@pytest.mark.parametrize("reader", READERS)
def test_columns_in_another_order_give_the_same_numbers(reader, data, sams, caplog):
    states = sams.state_dict()
    before = {k: v.clone() for k, v in states.items()}
    expected = READERS[reader](sams, data)
    sams.load_state_dict(before)
    with caplog.at_level(logging.WARNING, "samslib"):
        found = READERS[reader](sams, shuffled(data))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert "SAMSVAE by name: genes, perturbations (1 genes that it does not have left out" in caplog.text


@pytest.mark.parametrize("reader", READERS)
def test_cells_that_the_model_was_not_made_for_are_refused(reader, data, sams):
    """Fewer genes, a perturbation that it does not know, real values: refused by every function."""
    real = replace(data, x=data.x.toarray(), counts=False)
    other = replace(data, perturbations=("A", "B", "D"))
    for wrong, message in [
        (data.select_genes(slice(0, 8)), r"lack 4 of the model's 12 genes \('gene8', 'gene9', 'gene10' and 1 more\)"),
        (other, "18 cells have perturbations that the model does not know, 'D'"),
        (real, "The data are real values, but SAMSVAE was made for counts"),
    ]:
        with pytest.raises(DataError, match=message):
            READERS[reader](sams, wrong)


def test_a_part_of_the_perturbations_is_read_by_name(data, sams):
    """Cells of C alone have one column, which is the model's third and not its first."""
    kept = data[np.isin(data.labels, ["C", "control"])]
    alone = shuffled(kept)
    assert alone.perturbations == ("C",)
    aligned = align(alone, sams)
    assert aligned.perturbations == ("A", "B", "C") and aligned.genes == data.genes
    np.testing.assert_array_equal(aligned.dose.toarray(), kept.dose.toarray())
    np.testing.assert_array_equal(aligned.x.toarray(), kept.x.toarray())
    np.testing.assert_array_equal(aligned.library, kept.library)
    assert align(data, sams) is data


def test_covariate_levels_and_flags_are_read_by_name():
    data = make_data(covariates=True)
    model = make_model("cpa covariates", data.summary())
    one_line = data[data.covariate[:, 0] == 1]
    adata = anndata.AnnData(
        one_line.x.toarray(), obs=pd.DataFrame({"perturbation": one_line.labels, "line": "x", "plate": "1"})
    )
    adata.var_names = data.genes
    alone = PerturbationData.from_anndata(adata, covariates=("plate", "line"))
    assert alone.covariates == ("plate=1", "line=x")
    np.testing.assert_array_equal(align(alone, model).covariate, one_line.covariate)
    with pytest.raises(DataError, match=r"CPA reads covariates \['line'\], which the data lack"):
        align(PerturbationData.from_anndata(adata, covariates="plate"), model)
    adata.obs["line"] = "z"
    with pytest.raises(DataError, match="60 cells have covariates that the model does not know, 'line=z'"):
        align(PerturbationData.from_anndata(adata, covariates=("line", "plate")), model)

    flagged = make_data(quality=True)
    cradle = make_model("cradle_vae", flagged.summary())
    two = replace(flagged, qc=np.hstack([1 - flagged.qc, flagged.qc]), quality=("other", "fails"))
    np.testing.assert_array_equal(align(two, cradle).qc, flagged.qc)
    with pytest.raises(DataError, match=r"CRADLEVAE reads quality \['fails'\], which the data lack"):
        align(make_data(), cradle)


def test_combinations_in_the_other_encoding_are_refused(data, sams):
    whole = data.encode_unique()
    model = make_model("conditional_vae", whole.summary())
    assert align(whole, model) is whole
    with pytest.raises(DataError, match=r"18 cells have combinations, .*; give data.encode_unique\(\)"):
        align(data, model)
    with pytest.raises(DataError, match=r"18 cells have combinations, .*; give the data before encode_unique"):
        align(whole, sams)
    singles = data[data.n_perturbations < 2]
    assert align(singles, model).dose_of("A+B").tolist() == [[0, 1, 0, 0]], "the columns are those of the model"


def test_training_cells_are_told_and_their_lack_is_marked(data, recwarn):
    """An effect that no cell taught is a number like any other but for its mark."""
    train = data[(data.labels != "C") & (data.labels != "A+B")]
    model = make_model("sams_vae", data.summary(train))
    recwarn.clear()
    with pytest.warns(UserWarning, match="No training cell had 'C', 'B\\+C', or a part of it"):
        table = samslib.average_effects(model, data, ["A", "C", "A+B", "C+B"], particles=5)
    assert table.obs["training_cells"].tolist() == [18, 0, 18, 0]
    assert table.obs["untrained"].tolist() == [False, True, False, True]
    for reader in ("posterior_effects", "sample_cells", "counterfactual", "predictive_check"):
        with pytest.warns(UserWarning, match="No training cell had 'C'"):
            READERS[reader](model, data)


@pytest.mark.parametrize("what", ["genes", "perturbations", "values", "doses", "cells", "targets"])
def test_a_folder_of_other_data_is_not_resumed(data, tmp_path, what):
    """Data with the same sums and first cell, and each time one other thing that differs."""
    model = make_model("sams_vae", data.summary())
    config = samslib.FitConfig(checkpoints=tmp_path, **QUICK)
    samslib.fit(model, data, config=config)
    swap = np.r_[0, 2, 1, 3 : len(data)]
    others = {
        "genes": replace(data, genes=(*data.genes[:-1], "other")),
        "perturbations": replace(data, perturbations=("A", "B", "D")),
        "values": replace(data, x=data.x[:, np.r_[1, 0, 2:12]]),
        "doses": replace(data, dose=data.dose[swap]),
        "cells": replace(data, cells=data.cells[swap]),
        "targets": replace(data, targets=("first", "second", "first")),
    }
    other = make_model("sams_vae", others[what].summary())
    with pytest.raises(ValueError, match=f"differs in training {what}"):
        samslib.fit(other, others[what], config=config)


def test_a_digest_is_of_the_cells_and_not_of_where_they_lie(data, tmp_path):
    adata = anndata.AnnData(data.x.copy(), obs=pd.DataFrame({"perturbation": data.labels}, index=data.cells))
    adata.var_names = data.genes
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = PerturbationData.from_anndata(anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r"))
    assert backed.digest() == data.digest() and backed.to_memory().digest() == data.digest()


def test_targets_are_those_of_the_model_or_refused(data, caplog):
    """They follow their perturbations into the model's order; a model without any takes data with some."""
    targets = ("first", "second", "first")
    guides = replace(data, targets=targets)
    model, plain = (make_model("sams_vae sparse", of.summary()) for of in (guides, data))
    assert align(guides, model) is guides and align(guides, plain) is guides
    order = [2, 0]
    fewer = guides[~np.isin(guides.labels, ["B", "A+B"])]
    fewer = replace(fewer, perturbations=("C", "A"), dose=fewer.dose[:, order].tocsr(), targets=("first", "first"))
    again = align(fewer, model)
    assert again.targets == targets and again.perturbations == ("A", "B", "C")
    assert (again.dose.toarray()[:, order] == fewer.dose.toarray()).all()
    assert align(fewer, plain).targets == ()
    with pytest.raises(DataError, match="'A' is a guide of 'first' in SAMSVAE, and without targets in the data"):
        align(data, model)
    with pytest.raises(DataError, match="'C' is a guide of 'first' in SAMSVAE, and of 'third' in the data"):
        align(replace(data, targets=("first", "second", "third")), model)


def graded_data(cells: int = 120) -> PerturbationData:
    """A at doses 0.5 and 2, whose effects differ fourfold, alone and beside B; B and controls."""
    rng = np.random.default_rng(0)
    label = np.array(["control", "A", "A", "B", "B+A", "A+B"])[np.arange(cells) % 6]
    dose = np.array(["1", "0.5", "2", "1", "1+0.5", "2+1"])[np.arange(cells) % 6]
    rate = np.full((cells, 8), 5.0)
    rate[:, 0] *= 1 + np.select([np.arange(cells) % 6 == 1, np.arange(cells) % 6 == 2], [1, 4], 0)
    adata = anndata.AnnData(rng.poisson(rate).astype(np.float32), obs=pd.DataFrame({"perturbation": label, "d": dose}))
    adata.obs_names = [f"c{i}" for i in range(cells)]
    return PerturbationData.from_anndata(adata, dose="d")


def test_rows_carry_their_dose_and_like_is_compared_with_like():
    """Two doses of A are two conditions, in cells, in models, in predictors and in scores."""
    data = graded_data()
    names = ["A=0.5", "A=0.5+B", "A=2", "A=2+B", "B"]
    seen = samslib.data_effects(data, "mean")
    assert list(seen.obs_names) == names and seen.obs["cells"].tolist() == [20] * 5
    assert 4 < seen["A=0.5"].X[0, 0] < 7 and 16 < seen["A=2"].X[0, 0] < 24
    model = make_model("cpa", data.summary())
    table = samslib.average_effects(model, data, particles=4, readout="mean")
    assert sorted(table.obs_names) == names, "the default: every condition of the data"
    asked = samslib.average_effects(model, data, ["A=2", {"A": 0.5, "B": 1}, {"A": 1}], particles=4, readout="mean")
    assert list(asked.obs_names) == ["A=2", "A=0.5+B", "A"]
    with pytest.raises(ValueError, match="'A=2' is asked for twice"):
        samslib.average_effects(model, data, ["A=2", {"A": 2}], particles=4)
    scores = samslib.effect_scores(asked, seen)
    assert set(scores["perturbation"]) - {"pooled", "median"} == {"A=2", "A=0.5+B"}, "there is no cell of A at dose 1"
    assert list(samslib.interactions(seen).obs_names) == ["A=0.5+B", "A=2+B"], "a pair, less its parts at their doses"
    train, val = data[np.arange(120) // 6 % 2 == 0], data[np.arange(120) // 6 % 2 == 1]
    memory = samslib.predictors(train, val, data, readout="mean")["training cells"]
    np.testing.assert_allclose(memory["A=2"].X, samslib.data_effects(train, "mean")["A=2"].X)
    check = samslib.predictive_check(
        model, data, ["effect"], ["gene0"] if "gene0" in data.genes else ["0"], replicates=3
    )
    assert sorted(check["perturbation"]) == names


def test_doses_that_differ_in_the_last_digit_have_labels_of_their_own():
    doses = np.float32([1234567, 1234568, 0.1, 1e-7])
    adata = anndata.AnnData(np.ones((5, 2), np.float32), obs=pd.DataFrame({"perturbation": ["A"] * 4 + ["control"]}))
    adata.obs["d"] = [*doses, 1]
    adata.obs_names = list("abcde")
    data = PerturbationData.from_anndata(adata, dose="d")
    assert list(data.labels[:4]) == ["A=1234567", "A=1234568", "A=0.1", "A=0.0000001"]
    for label, dose in zip(data.labels, doses, strict=False):
        assert data.dose_of(label).tolist() == [[dose]]


@pytest.mark.parametrize("reader", READERS)
def test_an_anndata_where_the_data_class_is_meant_is_refused(reader, data, sams):
    adata = anndata.AnnData(data.x.copy(), obs=pd.DataFrame({"perturbation": data.labels}, index=data.cells))
    with pytest.raises(DataError, match="PerturbationData.from_anndata"):
        READERS[reader](sams, adata)


def test_functions_of_cells_alone_refuse_an_anndata_too(data):
    adata = anndata.AnnData(data.x.copy(), obs=pd.DataFrame({"perturbation": data.labels}, index=data.cells))
    for call in (samslib.data_effects, samslib.noise_ceiling, samslib.evaluate.observed.readouts):
        with pytest.raises(DataError, match="PerturbationData.from_anndata"):
            call(adata)
    drawn = anndata.AnnData(data.x.copy(), obs=adata.obs)
    for call in (
        lambda: samslib.predictors(data, data, adata),
        lambda: samslib.score_table({}, adata, np.array(["test"] * 90)),
        lambda: samslib.cell_scores(drawn, adata),
    ):
        with pytest.raises(DataError, match="PerturbationData.from_anndata"):
            call()
    with pytest.raises(ValueError, match="part is 'tets'; choose one of"):
        samslib.score_table({}, data, samslib.splits.random(), part="tets")


def test_distances_to_training_conditions_are_by_name_too(data):
    model = make_model("cpa", data.summary())
    expected = samslib.distance_to_training(model, data, ["A", "C", "B+C"], min_cells=6)
    found = samslib.distance_to_training(model, shuffled(data), ["A", "C", "B+C"], min_cells=6)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4)
    with pytest.raises(DataError, match="perturbations that the model does not know, 'D'"):
        samslib.distance_to_training(model, replace(data, perturbations=("A", "B", "D")), ["A"], min_cells=6)
