from __future__ import annotations

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
