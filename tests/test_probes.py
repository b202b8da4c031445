"""The parts that should hide something from a probe hide it, at a small size; `make probes` has the whole table."""

from __future__ import annotations

import pandas as pd
import pytest
from samsbook import probes

import samslib


def test_the_interval_and_the_verdicts_of_a_table():
    """The t quantile of 2 degrees of freedom is 4.3027; differences 1, 2, 3 have a standard error of 0.5774."""
    mean, low, high = probes.interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    truth = {"down": -1.0, "up": 2.0, "mixed": 0.0}

    def measure(seed, weight):
        return {name: weight * (step + 0.1 * (seed - 1)) for name, step in truth.items()}

    table = probes.compare("M", "part", measure, 1.0, seeds=3).set_index("measure")
    assert table["verdict"].str.split().str[0].to_dict() == {"down": "lower", "up": "higher", "mixed": "not"}
    pd.testing.assert_series_equal(table["difference"], pd.Series(truth), check_names=False)


def test_cpa_adversary_hides_the_perturbation_from_a_probe():
    """Over three seeds, the 95 % interval (t, paired) of the change in the probe's held-out accuracy lies below zero;
    if the adversary did nothing, this would happen in one run of forty."""
    table = probes.compare("CPA", "adversary", probes.perturbation_probe, 1.0, seeds=3).set_index("measure")
    row = table.loc["accuracy of the perturbation"]
    print(row)
    assert row["high"] < 0


def auc(seed: int, weight: float) -> dict[str, float]:
    data, _ = probes.screen_with_artifact(seed, (0.3,) * 4, cells=2000)
    train, test = samslib.quality.with_twins(data[:1000]), data[1000:]
    model = probes.trained(samslib.CRADLEVAE, train, seed, 250, 1, auxiliary_weight=weight)
    return {"auc": probes.flag_auc(model, test, test.qc[:, 0] != 0)}


def test_cradle_auxiliary_term_hides_the_flag_from_a_probe():
    """Over four seeds, the 95 % interval (t, paired) of the change in the probe's area under the curve on held-out
    cells lies below zero; if the term did nothing, this would happen in one run of forty."""
    row = probes.compare("CRADLE-VAE", "auxiliary term", auc, 3.0, seeds=4).iloc[0]
    print(row)
    assert row["high"] < 0
