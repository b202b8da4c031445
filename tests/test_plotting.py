from __future__ import annotations

import re

import anndata
import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
from samslib import plotting


@pytest.fixture(autouse=True)
def closed():
    plotting.use_style()
    yield
    matplotlib.pyplot.close("all")


def test_summary_is_the_t_interval():
    frame = pd.DataFrame({"kind": list("aaab"), "f1": [1.0, 2.0, 3.0, 5.0]})
    table = plotting.summarise(frame, "f1", "kind")
    assert table.loc["a", "mean"] == 2 and table.loc["a", "half_width"] == pytest.approx(
        4.302653 / np.sqrt(3), rel=1e-5
    )
    assert np.isnan(table.loc["b", "half_width"]) and table.loc["b", "repeats"] == 1


def test_every_figure_draws_what_it_is_given():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.random(12), "y": rng.random(12), "kind": list("abc") * 4})
    ax = plotting.matrix(pd.DataFrame(rng.normal(size=(4, 3)), index=list("pqrs")), "effect", centre=0)
    assert [t.get_text() for t in ax.get_yticklabels()] == list("pqrs")
    assert plotting.scatter(frame, "x", "y", "kind", diagonal=True).get_xlabel() == "x"
    assert plotting.lines(frame, "x", "y", "kind", log_x=True).get_xscale() == "log"
    history = pd.DataFrame({"loss": [3.0, 2.0], "val_loss": [4.0, 3.0]}, index=pd.Index([1, 2], name="step"))
    assert len(plotting.training_curves(history).get_lines()) >= 2
    ax = plotting.comparison(frame, "y", "kind", unit="nats")
    assert ax.get_xlabel() == "y (nats)" and [t.get_text() for t in ax.get_yticklabels()] == list("abc")
    assert len(plotting.axes(3)) == 3


def names(labels) -> list[str]:
    return [label.get_text() for label in labels]


def test_bounds_name_the_numbers_of_particles():
    frame = pd.DataFrame({"particles": [1, 5, 100] * 2, "bound": [3.0, 2, 1, 4, 3, 2], "model": list("aaabbb")})
    ax = plotting.bounds(frame, hue="model")
    assert names(ax.get_xticklabels()) == ["1", "5", "100"] and ax.get_xscale() == "log"
    assert ax.get_ylim()[0] > 0.5  # nats do not start at zero


def test_scatter_counts_every_pair_on_equal_axes():
    x = np.random.default_rng(0).normal(size=2000)
    frame = pd.DataFrame({"observed": x, "model": 0.5 * x + 0.01})
    ax = plotting.effects_scatter(frame)
    assert ax.collections[0].get_array().sum() == 2000 and ax.get_xlim() == ax.get_ylim()
    assert ax.get_title(loc="left") == "r = 1.00, 2,000 pairs"
    with pytest.raises(ValueError, match="'observed' or 'model' has missing values"):
        plotting.effects_scatter(frame.assign(model=np.nan))


def test_effect_map_puts_like_beside_like_and_takes_anndata():
    rng = np.random.default_rng(0)
    kind = np.arange(10) % 2
    values = 5 * kind[:, None] + 0.1 * rng.normal(size=(10, 4))
    frame = pd.DataFrame(values, index=[f"P{i}" for i in range(10)], columns=list("abcd"))
    ax = plotting.effect_map(frame, "effect")
    order = [int(name[1:]) % 2 for name in names(ax.get_yticklabels())]
    assert order in ([0] * 5 + [1] * 5, [1] * 5 + [0] * 5)
    low, high = ax.collections[0].get_clim()
    assert low == -high and high < np.abs(values).max()
    table = anndata.AnnData(np.zeros((3, 60)), layers={"se": rng.normal(size=(3, 60))})
    table.var.index.name = "gene"
    assert plotting.effect_map(table, layer="se").get_xlabel() == "60 genes"


def test_mask_map_is_ordered_by_annotation():
    mask = pd.DataFrame(np.eye(4)[[0, 1, 0, 2, 3]], index=list("pqrst"), columns=[f"axis_{k}" for k in range(4)])
    mask = mask.rename_axis(index="perturbation", columns="axis")
    ax = plotting.mask_map(mask, {"p": "z", "r": "z", "q": "b"})
    assert names(ax.get_yticklabels()) == ["b", "z", "not annotated"]
    drawn = np.asarray(ax.collections[0].get_array()).reshape(5, 4)
    np.testing.assert_array_equal(drawn, np.eye(4)[[0, 1, 1, 2, 3]])  # columns follow the rows
    assert names(ax.get_xticklabels()) == ["1", "0", "2", "3"]
    assert names(plotting.mask_map(mask).get_yticklabels()) == list("pqrst")
    assert names(plotting.mask_map(mask, order=mask.columns[::-1]).get_xticklabels()) == ["3", "2", "1", "0"]
    with pytest.raises(ValueError, match="No row is annotated"):
        plotting.mask_map(mask, {"x": "z"})


def test_calibration_draws_the_band_of_order_statistics():
    """The band is the central 95% of each order statistic of 50 uniform draws: 2,000 samples, five standard errors."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"p_two_sided": rng.random(100), "summary": ["variance", "zero_fraction"] * 50})
    ax = plotting.calibration(frame)
    band = ax.collections[0].get_paths()[0].vertices
    samples = np.sort(rng.random((2000, 50)), axis=1)[:, 24]
    low, high = (edge(band[np.isclose(band[:, 0], 25 / 51), 1]) for edge in (np.min, np.max))
    inside = ((samples > low) & (samples < high)).mean()
    assert abs(inside - 0.95) < 5 * (0.95 * 0.05 / 2000) ** 0.5
    assert names(ax.get_legend().get_texts()) == ["95% if true", "variance", "zero fraction"]
    with pytest.raises(ValueError, match="no probabilities"):
        plotting.calibration(frame.assign(p_two_sided=2))


def test_dose_response_draws_curves_bands_and_points():
    frame = pd.DataFrame({"dose": [2.0, 1, 0] * 2, "effect": [3.0, 2, 0] * 2, "drug": list("aaabbb")})
    frame = frame.assign(low=frame["effect"] - 1, high=frame["effect"] + 1)
    ax = plotting.dose_response(frame, hue="drug", low="low", high="high", points=frame.iloc[[0, 3]])
    assert len(ax.collections) >= 2 and names(ax.get_legend().get_texts()) == ["a", "b"]
    curve = next(line for line in ax.get_lines() if line.get_label() == "a")
    assert list(curve.get_xdata()) == [0, 1, 2]
    assert len(plotting.dose_response(frame.iloc[:3]).get_lines()) == 2
    variants = frame.assign(drug=frame["drug"].map({"a": "CPA, sigm", "b": "CPA, linear"}))
    drawn = plotting.dose_response(variants, hue="drug").get_lines()[-2:]
    assert len({line.get_color() for line in drawn}) == 1 and len({str(line._dash_pattern) for line in drawn}) == 2


def test_intervals_draw_bars_from_zero_only_when_asked():
    frame = pd.DataFrame({"model": list("aabb"), "kind": list("xyxy"), "score": [0.6, 0.5, 0.7, 0.8]})
    frame = frame.assign(low=frame["score"] - 0.1, high=frame["score"] + 0.2)
    ax = plotting.intervals(frame, "score", "model", hue="kind", reference=0.5)
    assert not ax.patches and ax.get_xlim()[0] > 0 and names(ax.get_yticklabels()) == ["a", "b"]
    ends = ax.collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(ends, [0.5, 0.8])
    bars = plotting.intervals(frame, "score", "model", hue="kind", zero=True, unit="share")
    assert len(bars.patches) == 4 and bars.get_xlim()[0] == 0 and bars.get_xlabel() == "score (share)"
    assert {bar.get_x() for bar in bars.patches} == {0}


def test_a_row_of_one_kind_stands_on_its_tick_and_a_long_name_takes_two_lines():
    rows = ["data: guides pooled and shrunken", "SAMS-VAE"]
    frame = pd.DataFrame({"row": rows, "kind": ["a", "b"], "r": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7]})
    ax = plotting.intervals(frame, "r", "row", hue="kind")
    assert [float(dots.lines[0].get_ydata()[0]) for dots in ax.containers] == [0, 1]
    assert [label.get_text().count("\n") for label in ax.get_yticklabels()] == [1, 0]
    both = plotting.intervals(pd.concat([frame, frame.assign(kind=["b", "a"])]), "r", "row", hue="kind")
    assert float(both.containers[0].lines[0].get_ydata()[0]) < 0, "two of a row stand beside each other"


def test_predictive_shows_the_worst_first():
    frame = pd.DataFrame(
        {
            "perturbation": list("abc"), "summary": "zero_fraction", "genes": "all", "observed": [1.0, 5, 3],
            "standard_error": 0.1, "replicated_low": 0.0, "replicated_high": 2.0, "p_two_sided": [0.9, 0.01, 0.1],
        }
    )  # fmt: skip
    ax = plotting.predictive(frame, most=2)
    assert names(ax.get_yticklabels()) == ["b", "c"] and ax.get_xlabel() == "zero fraction (all)"
    assert ax.get_xlim()[0] < 0 and ax.get_xlim()[1] > 5.2
    with pytest.raises(ValueError, match="2 pairs of summary and genes"):
        plotting.predictive(frame.assign(genes=["all", "all", "few"]))


def test_missing_columns_rows_and_values_are_named():
    frame = pd.DataFrame({"particles": [1.0], "bound": [2.0]})
    with pytest.raises(ValueError, match="no column 'value'; its columns are"):
        plotting.bounds(frame, y="value")
    with pytest.raises(ValueError, match="no rows"):
        plotting.bounds(frame.iloc[:0])
    with pytest.raises(ValueError, match="missing values"):
        plotting.effect_map(frame * np.nan)


def test_a_model_looks_the_same_in_every_figure_and_its_variants_have_its_colour():
    alone, beside = plotting.looks(["CPA-VAE"]), plotting.looks(["new", "SAMS-VAE, unique", "CPA-VAE", "SAMS-VAE"])
    assert alone["CPA-VAE"] == beside["CPA-VAE"] == (plotting.PALETTE[1], "s", plotting.DASHES[1])
    assert beside["SAMS-VAE, unique"][0] == beside["SAMS-VAE"][0] and len(set(beside.values())) == 4
    assert beside["new"][0] not in (beside["SAMS-VAE"][0], beside["CPA-VAE"][0])
    assert [look[0] for look in plotting.looks(range(7)).values()] == plotting.PALETTE

    frame = pd.DataFrame({"model": ["CPA-VAE", "SAMS-VAE", "other"], "value": [1.0, 2, 3], "x": 0.0})
    frame = frame.assign(low=frame["value"] - 1, high=frame["value"] + 1)
    blue = matplotlib.colors.to_rgb(plotting.PALETTE[0])
    legend = plotting.scatter(frame, "x", "value", "model").get_legend()
    assert legend.legend_handles[1].get_markerfacecolor() == plotting.PALETTE[0]
    assert plotting.lines(frame, "x", "value", "model").get_lines()[1].get_color() == plotting.PALETTE[0]
    rows = plotting.intervals(frame, "value", "model").get_lines()
    assert [matplotlib.colors.to_rgb(line.get_color()) == blue for line in rows if line.get_marker() in "osD"] == [
        False, True, False,
    ]  # fmt: skip


def test_panels_are_equally_wide_and_high_and_no_wider_than_the_page():
    left, right = plotting.axes(2, width=11, titles=["a", "b"])
    frame = pd.DataFrame({"x": [0.0, 1], "y": [0.0, 1], "kind": ["p", "a name too long for a second column"]})
    plotting.lines(frame, "x", "y", "kind", ax=left)
    plotting.lines(frame, "x", "y", ax=right)
    figure = left.get_figure(root=True)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == plotting.PAGE
    assert [round(part.bbox.width / figure.bbox.width, 6) for part in figure.subfigs] == [0.5, 0.5]
    np.testing.assert_allclose(left.get_position().intervaly, right.get_position().intervaly)
    for part in figure.subfigs:  # nothing of a panel stands in another, or is cut off
        box, inside = part.get_tightbbox(), part.bbox
        assert box.x0 >= inside.x0 - 1 and box.x1 <= inside.x1 + 1 and box.y1 <= inside.y1 + 1


def test_truth_and_inference_have_one_colour_scale_and_yes_and_no_has_no_bar():
    truth, found = pd.DataFrame([[-0.5, 4.0], [1.0, 0.0]]), pd.DataFrame([[0.5, 1.0], [1.0, 0.0]])
    panels = plotting.matrices({"truth": truth, "inferred": found}, "shift", centre=0)
    assert len({ax.collections[0].get_clim() for ax in panels}) == 1
    assert [ax.figure.get_suptitle() for ax in panels] == ["truth", "inferred"]
    assert plotting.matrix((truth > 0).astype(float), "mask").collections[0].colorbar is None
    assert plotting.matrix(truth, "shift").collections[0].colorbar is not None


def test_text_has_one_size_and_dense_points_are_one_picture(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(2000, 2)), columns=["x", "y"]).assign(kind="a")
    ax = plotting.scatter(frame, "x", "y", "kind")
    ax.set(title="title", yscale="log")
    ax.text(0, 1, "beside a point")
    assert ax.get_figure(root=True).get_facecolor()[3] == 0
    matplotlib.pyplot.savefig(tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text()
    assert set(re.findall(r"font(?:-size)?: (?:[\w ]+ )?([\d.]+)px", svg)) == {"9"}  # of 1/72 inch: 12 pixels of a page
    assert "<image" in svg and len(svg) < 130_000
    assert re.search(r'id="patch_1">\s*<path [^>]*"fill: none', svg), "a figure has no background"
