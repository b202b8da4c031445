"""The comparison of everything on the bundled pairs, with a few steps each."""

from __future__ import annotations

import numpy as np
import pytest
from samsbook import compare, results

import samslib


@pytest.fixture(scope="module")
def table():
    return compare.compare(steps=5, particles=26, bound_particles=2, resamples=3)


def test_every_model_and_predictor_has_its_rows(table):
    models = {*samslib.MODELS, *samslib.BASELINES}
    data_only = {f"data: {n}" for n in ("training cells", "mean effect", "shrunken", "low rank")}
    pooled = table[table["perturbation"] == "pooled"]
    assert set(pooled["model"]) == models | data_only
    counts = pooled[pooled["score"] == "pearson"].groupby("model")["reference"].apply(set)
    assert all(found == {"all cells", "held out"} for found in counts)
    bounds = pooled[pooled["score"] == "iwelbo"].set_index("model")
    assert set(bounds.index) == models and (bounds["low"] < bounds["high"]).all() and (bounds["value"] < 0).all()
    assert set(pooled[pooled["score"] == "energy"]["model"]) == models
    others = table[table["score"] != "iwelbo"]
    assert np.isfinite(others[["value", "low", "high"]]).all(axis=None) and table.attrs["controls"] == "test"


def test_closed_forms_beat_what_has_hardly_been_trained(table):
    rows = table.query("perturbation == 'pooled' and score == 'pearson' and reference == 'held out'").set_index("model")
    assert rows["value"]["additive"] > rows["value"]["sams_vae"] + 0.2
    assert rows["value"]["data: training cells"] < rows["ceiling"].iloc[0] < 1


def test_the_text_shows_value_interval_and_ceiling(table):
    text = compare.side_by_side(table, ["pearson"])
    row = table.query("perturbation == 'pooled' and score == 'pearson' and model == 'linear'").set_index("reference")
    value, low, high = row.loc["held out", ["value", "low", "high"]]
    assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in text
    assert f"ceiling: held out {row.loc['held out', 'ceiling']:.3f}, all cells" in text
    assert text.index("\nlinear") < text.index("\ncontrol_mean") and "iwelbo" in text


def test_the_command_prints_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "root", lambda: tmp_path)
    arguments = "--models additive linear --holdout combinations --steps 2 --particles 25 --resamples 2 --write trial"
    assert compare.main(arguments.split()) == 0
    out = capsys.readouterr().out
    assert "controls of the held-out reference: val cells" in out and "data/results/trial.csv" in out
    written = results.read_results("trial")
    assert set(written["perturbation"]) == {"pooled", "median"} and len(written.attrs["data_sha256"]) == 64
    assert written.attrs["parameters"]["models"] == "additive, linear" and written.attrs["seed"] == 0


def test_errors_name_the_choices():
    with pytest.raises(ValueError, match="no model 'scgpt'; choose from sams_vae"):
        compare.compare(models=["scgpt"])
    with pytest.raises(ValueError, match="holdout is 'genes'"):
        compare.compare(holdout="genes")
