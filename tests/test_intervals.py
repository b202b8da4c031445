"""Means of ensembles, and intervals that cover what they say."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import samslib
from samslib import calibrated_effects, data_effects, ensemble_effects

GENES, CONTROLS = 60, 200


def table(x, layers, names, **obs) -> anndata.AnnData:
    """In the form of every table of effects; the variance between control cells is 1."""
    var = pd.DataFrame({"control": 0.0, "control_variance": 1.0}, [f"g{i}" for i in range(x.shape[1])])
    settings = {"readout": "mean", "separator": "+", "control_cells": CONTROLS}
    return anndata.AnnData(x, pd.DataFrame(obs, list(names)), var, layers=layers, uns={"samslib": settings})


def seen(truth, n, names, rng) -> anndata.AnnData:
    """Effects in n cells of variance 1 and in the controls."""
    error = np.sqrt(1 / n[:, None] + 1 / CONTROLS) * np.ones_like(truth)
    noise = rng.normal(size=truth.shape) / np.sqrt(n)[:, None] + rng.normal(size=truth.shape[1]) / np.sqrt(CONTROLS)
    return table(truth + noise, {"standard_error": error}, names, cells=n)


def problem(seed: int = 0, law=np.random.Generator.standard_normal, conditions: int = 80):
    """Predictions whose errors are twice what they say of themselves, and noise of the training cells; tables of
    training, validation and test cells, of 4 to 400 a condition for training and a quarter in the others; the truth."""
    rng = np.random.default_rng(seed)
    n = rng.choice([4, 20, 100, 400], conditions)
    names = [f"P{i}" for i in range(conditions)]
    truth = rng.normal(size=(conditions, GENES))
    said = rng.uniform(0.02, 0.3, truth.shape)
    error = 2 * said * law(rng, truth.shape) + law(rng, truth.shape) / np.sqrt(2 * n)[:, None]
    predicted = table(truth + error, {"standard_error": said}, names, training_cells=n, untrained=n == 0)
    return predicted, *(seen(truth, of, names, rng) for of in (n, n // 4, n // 4)), truth


def inside(made, values, prefix=""):
    return (made.layers[f"{prefix}low"] <= values) & (values <= made.layers[f"{prefix}high"])


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_their_share_at_every_number_of_cells(level):
    """4,800 entries, independent but for the controls that each gene's share: standard errors of a share are below
    0.8%, and below 1.7% for a quarter of the conditions; the limits are four of these. Widths of a factor of 5 between
    conditions of few and of many cells are needed for that."""
    predicted, train, val, test, truth = problem()
    made = calibrated_effects(predicted, train, val, level)
    for prefix, values in {"cells_": test.X, "": truth}.items():
        covered = inside(made, values, prefix)
        assert abs(covered.mean() - level) < 0.03
        for n in (4, 20, 100, 400):
            assert abs(covered[train.obs["cells"] == n].mean() - level) < 0.07
    assert made.obs["validated"].all() and made.uns["samslib"]["unvalidated"] == ""
    assert abs(made.uns["samslib"]["left_out trained"] - level) < 0.02
    assert abs(inside(made, val.X, "cells_").mean() - level) < 0.001
    assert 0.02 < made.uns["samslib"]["left_out_sd trained"] < 0.15


def test_coverage_in_cells_does_not_hang_on_the_law_of_errors():
    """Errors of Student's law with 3 degrees of freedom, whose Normal 80% interval covers 89%; limits as above. True
    effects are covered rather too often."""
    predicted, train, val, test, truth = problem(1, lambda rng, size: rng.standard_t(3, size))
    made = calibrated_effects(predicted, train, val, 0.8)
    assert abs(inside(made, test.X, "cells_").mean() - 0.8) < 0.03
    assert 0.78 < inside(made, truth).mean() < 0.92


def test_more_cells_leave_less_noise():
    """The interval in 10^8 cells and controls is that of the truth; by default it is for as many as validate."""
    predicted, train, val, _, _ = problem()
    usual = calibrated_effects(predicted, train, val)
    many = calibrated_effects(predicted, train, val, cells=10**8, controls=10**8)
    np.testing.assert_allclose(many.layers["cells_low"], usual.layers["low"], atol=1e-3)
    same = calibrated_effects(predicted, train, val, cells=val.obs["cells"], controls=CONTROLS)
    np.testing.assert_allclose(same.layers["cells_high"], usual.layers["cells_high"])
    assert (usual.layers["cells_high"] > usual.layers["high"]).all()


def test_a_kind_that_validation_cells_do_not_show_has_no_interval():
    """Ten conditions have no training cells of their own; their predictions are off by 3 more."""
    predicted, train, val, test, _ = problem()
    unseen = np.arange(80) < 10
    predicted.X[unseen] += 3 * np.sign(predicted.X[unseen] - test.X[unseen])
    with pytest.warns(UserWarning, match="Fewer than 5 validation conditions are such as 'P0', 'P1', 'P2'"):
        made = calibrated_effects(predicted, train[~unseen], val[~unseen])
    assert (made.obs["validated"] == ~unseen).all() and np.isnan(made.layers["low"][unseen]).all()
    assert "have no intervals" in made.uns["samslib"]["unvalidated"]
    assert np.isfinite(made.layers["cells_high"][~unseen]).all() and "q unseen" not in made.uns["samslib"]
    both = calibrated_effects(predicted, train[~unseen], val)
    assert both.obs["validated"].all()
    covered = inside(both, test.X, "cells_")
    assert abs(covered[unseen].mean() - 0.9) < 0.07 and abs(covered[~unseen].mean() - 0.9) < 0.03
    predicted.obs["untrained"] = np.arange(80) < 2
    with pytest.warns(UserWarning, match="are such as 'P0', 'P1':"):
        assert calibrated_effects(predicted, train[~unseen], val).obs["validated"].sum() == 78


def test_of_cells_themselves_and_their_predictors():
    """Tables of data_effects, a gene that is never seen, and rows of targets; intervals are finite."""
    screen = samslib.simulate.guide_screen(8, 2, 2, cells=40, genes=20, seed=0)
    screen.X = screen.X.multiply(np.arange(20) > 0).tocsr()
    data = samslib.PerturbationData.from_anndata(screen, target="gene")
    train, val, _ = data.split(samslib.splits.random(seed=0))
    predicted = samslib.predictors(train, val, data)["shrunken"]
    seen, held = map(data_effects, (train, val))
    made = calibrated_effects(predicted, seen, held)
    assert np.isfinite(made.layers["low"]).all() and (made.layers["low"] < made.layers["high"]).all()
    by = [samslib.by_target(of, data) for of in (predicted, seen, held)]
    assert (np.diff(calibrated_effects(*by).layers["cells_low"]) != 0).all() and len(by[0]) == 8


def test_what_cannot_be_calibrated_is_refused():
    predicted, train, val, _, _ = problem(conditions=20)
    for level in (0, 1, 90):
        with pytest.raises(ValueError, match=f"level is {level}; it must be strictly between 0 and 1"):
            calibrated_effects(predicted, train, val, level)
    other = val.copy()
    other.uns["samslib"] = val.uns["samslib"] | {"readout": "perturbseq"}
    more = predicted.copy()
    more.obs["training_cells"] += 1
    cases = [
        ((predicted, train, val[:, :5]), "effects and val have different genes"),
        ((predicted, train, other), "of the readout 'mean', val of 'perturbseq'"),
        ((predicted, predicted, val), "train has no standard errors of cells"),
        ((predicted[:5], train, val[5:]), "effects and val share no condition"),
        ((more, train, val), "was not trained on the cells of train"),
        ((predicted, train, val[:4]), "Fewer than 5 validation conditions .* Give validation cells"),
    ]
    for arguments, message in cases:
        arguments[0].uns["samslib"].pop("control_cells", None)
        with pytest.raises(ValueError, match=message):
            calibrated_effects(*arguments)
    missing = predicted.copy()
    missing.X = np.where(np.arange(missing.n_vars) == 1, np.nan, missing.X)
    for arguments, message in [
        ((missing, train, val), "missing or infinite values"),
        ((predicted, [1], val), "train holds cells; give a table"),
    ]:
        with pytest.raises(ValueError, match=message):
            calibrated_effects(*arguments)
    for cells in (0, pd.Series({"another": 5})):
        with pytest.raises(
            ValueError, match="cells must be a number of 1 or above for every condition, and is not for "
        ):
            calibrated_effects(predicted, train, val, cells=cells)
    with pytest.raises(ValueError, match="level is '0.9'; it must be a finite number"):
        calibrated_effects(predicted, train, val, "0.9")


def test_an_ensemble_is_the_mean_of_its_members():
    """200 conditions and 60 genes, 4 members that differ by 0.5 and simulation errors of 0.3: the mean of the variances
    has a standard error of 0.002."""
    rng = np.random.default_rng(0)
    truth, names = rng.normal(size=(200, GENES)), [f"P{i}" for i in range(200)]
    error = {"standard_error": np.full(truth.shape, 0.3)}
    x = [truth + 0.5 * rng.normal(size=truth.shape) + 0.3 * rng.normal(size=truth.shape) for _ in range(4)]
    members = [table(of, error | {"posterior_variance": 0 * of + i}, names, training_cells=9) for i, of in enumerate(x)]
    mean = ensemble_effects(members)
    np.testing.assert_allclose(mean.X, np.mean(x, 0))
    np.testing.assert_allclose(mean.layers["standard_error"], 0.15)
    np.testing.assert_allclose(mean.layers["posterior_variance"], 1.5)
    assert abs((np.var(x, axis=0, ddof=1) - 0.09).mean() - 0.25) < 0.01
    np.testing.assert_allclose(mean.layers["member_variance"], (np.var(x, axis=0, ddof=1) - 0.09).clip(min=0))
    assert mean.uns["samslib"]["members"] == 4 and (members[0].X == x[0]).all()
    assert (ensemble_effects(members[:1]).layers["member_variance"] == 0).all()
    other = members[1].copy()
    other.obs["training_cells"] = 8
    for wrong, message in [
        ([], "members must be tables of effects"),
        ([members[0], "another"], "members must be tables of effects"),
        ([members[0], members[1][:5]], "different perturbations"),
        ([members[0], members[1][:, :5]], "different genes"),
        ([members[0], other], "different numbers of training cells; train all on the same cells"),
    ]:
        with pytest.raises(ValueError, match=message):
            ensemble_effects(wrong)
