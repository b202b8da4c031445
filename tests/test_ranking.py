"""The ranked list: p-values that hold, sizes without noise, and who is flagged."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from conftest import make_data, make_model
from scipy.stats import false_discovery_control

import samslib
from samslib import data_effects, rank_perturbations
from samslib.evaluate import ranking
from samslib.validation import DataError


def screen(sizes: dict[str, int], shift=0.0, genes: int = 12, line=None, *, seed: int) -> samslib.PerturbationData:
    """Real values of standard deviation 2; those of each perturbation, "control" first, are moved by `shift` of it."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(list(sizes), list(sizes.values()))
    x = rng.normal(size=(len(labels), genes)) + np.where(labels == "control", 0, shift)[:, None]
    obs = pd.DataFrame({"perturbation": labels}, [f"c{i}" for i in range(len(labels))])
    if line is not None:
        obs["line"] = line(rng, labels)
        x += 3 * (obs["line"] == "y").to_numpy()[:, None]
    cells = anndata.AnnData((2 * x).astype(np.float32), obs=obs)
    return samslib.PerturbationData.from_anndata(cells, counts=False, covariates=() if line is None else ("line",))


@pytest.fixture
def few_replicates(monkeypatch):
    monkeypatch.setattr(ranking, "REPLICATES", 3)


def test_p_of_perturbations_without_effect_is_uniform(few_replicates):
    """100 screens of conditions of 1, 10, 40 and 90 cells and 80 controls, for which two are drawn from half of the
    controls. The share of p up to 0.1 and to 0.5 is that within four standard errors over screens (6 in 100,000)."""
    sizes = {"control": 80, "A": 1, "B": 10, "C": 60, "D": 90}
    p = [rank_perturbations(screen(sizes, seed=s), readout="mean", resamples=99, seed=s)["p"] for s in range(100)]
    for level in (0.1, 0.5):
        share = (np.array(p) <= level).mean(1)
        assert abs(share.mean() - level) < 4 * share.std(ddof=1) / 10


def test_null_effects_vary_as_effects_of_all_controls_would():
    """Within levels; the second size is above half of the controls of each. Variances of 4,000 draws have a standard
    error of 2.2%, and one of 24 would be off by 10% in fewer than 1 of 5,000 tests."""
    labels = ["control"] * 90 + ["A"] * 30 + ["B"] * 80
    line = np.array(["x"] * 60 + ["y"] * 30 + ["x"] * 10 + ["y"] * 20 + ["x"] * 50 + ["y"] * 30)
    data = screen({"control": 90, "A": 30, "B": 80}, line=lambda rng, _: line, seed=0)
    null = ranking._Null(data, "mean", "line")
    drawn = np.array(list(null.draws(4000, 0)))
    spread = {name: data.x[(data.labels == "control") & (line == name)].var(0, ddof=1) for name in "xy"}
    for i, n in enumerate(({"x": 10, "y": 20}, {"x": 50, "y": 30})):
        share = {name: n[name] / sum(n.values()) for name in n}
        said = sum(share[k] ** 2 * spread[k] * (1 / n[k] + 1 / {"x": 60, "y": 30}[k]) for k in n)
        np.testing.assert_allclose(drawn[:, i].var(0), said, rtol=0.1)
    assert null.scaled.tolist() == [True, True] and len(labels) == len(data)
    smaller = ranking._Null(data[line == "x"], "mean", ())
    assert smaller.scaled.tolist() == [False, True]


def test_sizes_are_without_noise_and_their_intervals_hold(monkeypatch):
    """Shifts of 0.4 standard deviations of every gene, 20 cells, 60 controls, of which noise alone has a size of 0.26,
    in 100 screens: the mean square is 0.16 within four standard errors (6 in 100,000), and the 95% intervals, which
    are rather wide, miss the size at most 12 times (more in 0.3% if they missed 5 of 100)."""
    monkeypatch.setattr(ranking, "REPLICATES", 60)
    sizes = {"control": 60, "A": 20}
    rows = [screen(sizes, 0.4, seed=s) for s in range(100)]
    found = pd.concat([rank_perturbations(data, readout="mean", resamples=20, seed=0) for data in rows])
    square = found["size"] ** 2
    assert abs(square.mean() - 0.16) < 4 * square.std() / 10
    assert ((found["low"] > 0.4) | (found["high"] < 0.4)).sum() <= 12 and (found["high"] < 1).mean() > 0.9


def test_the_list_is_sorted_and_says_what_is_uncertain(few_replicates):
    sizes = {"control": 60, "idle": 25, "strong": 25, "rare": 4, "many": 45, "single": 1}
    shift = np.repeat([0, 0, 2, 2, 0.0, 0], list(sizes.values()))
    table = rank_perturbations(screen(sizes, shift, seed=1), readout="mean", resamples=200)
    assert set(table["perturbation"][:2]) == {"strong", "rare"} and table["p"].is_monotonic_increasing
    np.testing.assert_allclose(table["fdr"], false_discovery_control(table["p"]))
    table = table.set_index("perturbation")
    assert table["p"]["strong"] == 1 / 201 and table["size"]["strong"] > 1.8
    assert table.index[table["few_cells"]].sort_values().tolist() == ["rare", "single"]
    assert table.index[table["few_controls"]].tolist() == ["many"]
    assert np.isnan(table["size"]["single"]) and table["p"]["single"] > 0.01
    assert table["cells"].to_dict() == {name: n for name, n in sizes.items() if name != "control"}


def test_lines_that_follow_a_perturbation_are_no_effect_within_lines(few_replicates):
    """Nine in ten of A's cells and one in two controls are of a line that is 3 standard deviations away."""
    data = screen(
        {"control": 80, "A": 30},
        line=lambda rng, of: np.where(rng.random(len(of)) < 0.5 + 0.4 * (of == "A"), "y", "x"),
        seed=3,
    )
    with pytest.warns(UserWarning, match="differ in 'line'"):
        assert rank_perturbations(data, readout="mean", resamples=199)["p"][0] == 1 / 200
    assert rank_perturbations(data, readout="mean", resamples=199, within="line")["p"][0] > 0.05


@pytest.fixture
def guides():
    """A, B and C, of which A and B are of one target."""
    cells = make_data()
    obs = pd.DataFrame({"perturbation": cells.labels}, cells.cells)
    made = anndata.AnnData(cells.x, obs=obs, var=pd.DataFrame(index=list(cells.genes)))
    return samslib.PerturbationData.from_anndata(
        made[cells.labels != "A+B"].copy(), target={"A": "X", "B": "X", "C": "Z"}.get
    )


def test_rows_may_be_targets_and_have_what_a_model_says(few_replicates, guides):
    effects = samslib.average_effects(make_model("sams_vae sparse", guides.summary()), guides, ["A", "B"], particles=20)
    table = rank_perturbations(guides, effects, targets=True, resamples=200).set_index("perturbation")
    assert table["cells"].to_dict() == {"X": 36, "Z": 18} and list(table.index) == ["X", "Z"]
    assert table["training_cells"]["X"] == 36 and np.isnan(table["model_size"]["Z"])
    alone = rank_perturbations(guides, data_effects(guides), resamples=200).set_index("perturbation")
    np.testing.assert_allclose(alone["agreement"], 1)
    assert (alone["model_size"] > alone["size"]).all() and list(alone.index[2:]) == ["C"]


def test_what_cannot_be_ranked_is_refused(few_replicates, guides):
    sizes = {"control": 20, "A": 10}
    data = screen(sizes, seed=0)
    with pytest.raises(ValueError, match="level is 1; it must be strictly between 0 and 1"):
        rank_perturbations(data, readout="mean", level=1)
    with pytest.raises(ValueError, match="The effects have other genes"):
        rank_perturbations(guides, data_effects(guides.select_genes(slice(0, 5))), resamples=100)
    with pytest.raises(ValueError, match="of the readout 'mean', but readout is 'perturbseq'"):
        rank_perturbations(guides, data_effects(guides, "mean"), resamples=100)
    with pytest.raises(ValueError, match="share no perturbation"):
        rank_perturbations(guides, data_effects(guides[guides.labels != "A"])[:0], resamples=100)
    with pytest.raises(DataError, match="The perturbations have no targets"):
        rank_perturbations(data, readout="mean", targets=True)
    with pytest.raises(DataError, match="There are no control cells"):
        rank_perturbations(data[20:], readout="mean")
    with pytest.raises(DataError, match="There is a single control cell; a null"):
        rank_perturbations(data[19:], readout="mean")
    with pytest.warns(UserWarning, match="10 resamples cannot find one of 1 perturbations .*give 20 or more"):
        rank_perturbations(data, readout="mean", resamples=10)
