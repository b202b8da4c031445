"""Doses that nothing was trained on: what is withheld, the ruler between two doses, the queries and their table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import samsbook
from conftest import ROOT
from samsbook import parameters, unseen
from test_transfer import prose

import samslib


@pytest.fixture(scope="module")
def data():
    adata = samslib.simulate.dose_response(drugs=3, levels=4, cells=20, controls=40, genes=20, latent=4, seed=0)
    return samslib.PerturbationData.from_anndata(adata, dose="dose")


def test_the_second_largest_dose_of_each_drug_is_withheld(data):
    """Each drug has its own doses; controls and other doses are trained or validated on."""
    doses = np.geomspace(0.05, 1, 4)
    withheld = unseen.second_largest(data)
    assert list(withheld) == list(data.perturbations) and np.allclose([*withheld.values()], doses[-2])
    part = unseen.parts(data, {"P01": [withheld["P01"]]}, seed=0)
    dose = data.dose.toarray()
    assert ((part == "test") == np.isclose(dose[:, 0], doses[-2])).all()
    assert set(part[dose.sum(1) == 0]) == {"train", "val"}


def test_two_doses_of_each_drug_are_withheld_and_asked_for(data):
    """The cells at both are the test cells, whatever the precision of the doses, and the queries are called so."""
    withheld = unseen.two_doses(data, seed=0)
    part = unseen.parts(data, withheld, seed=0)
    assert all(len(set(doses)) == 2 for doses in withheld.values())
    assert (part == "test").sum() == 3 * 2 * 20
    listed = unseen.queries(data, withheld, 0, seed=0)
    assert listed["kind"].value_counts()[["trained dose", "withheld dose"]].tolist() == [6, 6]


def test_the_ruler_lies_on_the_logarithm_of_the_dose(data):
    """Between two doses in the ratio r, at r^(1/3) of the lower one the effect is two thirds of the lower one's and a
    third of the upper one's."""
    low, high = np.unique(data.dose[:, 0].data)[:2]
    every = samslib.data_effects(data)
    names = [data.describe(data.dose_of({"P01": float(dose)})[0].tolist()) for dose in (low, high)]
    found = unseen.interpolated(data, {"P01": float(low ** (2 / 3) * high ** (1 / 3))})
    np.testing.assert_allclose(found, 2 / 3 * every[names[:1]].X + every[names[1:]].X / 3, atol=1e-5)


def test_queries_are_of_four_kinds(data):
    withheld = {name: [dose] for name, dose in unseen.second_largest(data).items()}
    listed = unseen.queries(data, withheld, 2, seed=0)
    counted = listed["kind"].value_counts().to_dict()
    assert counted == {"trained dose": 9, "withheld dose": 3, "twice the largest dose": 3, "pair of drugs": 2}
    far = listed.loc[listed["kind"] == "twice the largest dose", "asked"]
    assert all(list(asked.values()) == [pytest.approx(2)] for asked in far)
    assert all(len(asked) == 2 for asked in listed.loc[listed["kind"] == "pair of drugs", "asked"])


def test_the_rank_correlation_is_taken_within_screens():
    """Two screens, of which one has ten times the errors and distances of the other the other way round: within each
    the ranks agree. Distances that are all the same have no rank."""
    one = pd.DataFrame({"seed": 0, "error": [1.0, 2.0, 3.0], "value": [10.0, 20.0, 30.0]})
    two = pd.DataFrame({"seed": 1, "error": [10.0, 20.0, 30.0], "value": [1.0, 2.0, 3.0]})
    three = two.assign(seed=2, value=[1.0, 3.0, 2.0])
    rows = pd.concat([one, two, three]).assign(model="CPA", measure="euclidean", kind="trained dose")
    same = rows.assign(measure="cosine", value=0.0)
    table = unseen.summarised(pd.concat([rows, same])).set_index(["measure", "kind"])
    assert table.loc[("euclidean", "all"), "rank"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert table.loc[("euclidean", "trained dose"), "rank_half_width"] == pytest.approx(4.3027 / 6, abs=1e-3)
    assert np.isnan(table.loc[("cosine", "all"), "rank"])


def test_the_genes_that_vary_most_are_kept(data):
    kept = unseen.variable_genes(data, 5)
    spread = np.log1p(data.x.toarray()).std(0)
    assert kept.sum() == 5 and set(np.flatnonzero(kept)) == set(np.argsort(spread)[-5:])
    assert unseen.variable_genes(data, 1000).sum() <= 20


def test_the_parameter_file_of_the_real_screen_fits_the_chapter():
    known = parameters.declared(ROOT / "chapters" / "06_cpa_doses_covariates.ipynb")
    given = parameters.parameter_file(ROOT / "book" / "runs" / "06_cpa_doses_covariates" / "sciplex2.yaml")
    for name, value in given.items():
        known[name].check(value)
    assert given["dataset"] in samslib.datasets.DATASETS


def test_the_distance_says_no_more_than_the_size_of_the_effect_but_for_pairs():
    table = samsbook.read_results("query-distance").set_index(["model", "measure", "kind"])
    euclidean, size = (table.loc["CPA", of] for of in ("euclidean", "size"))
    kinds = ["trained dose", "withheld dose", "twice the largest dose", "pair of drugs"]
    assert all((euclidean.loc[kinds, of].diff().dropna() > 0).all() for of in ("value", "error"))
    text, first, last = prose(), euclidean.loc["trained dose"], euclidean.loc["pair of drugs"]
    assert (
        f"from {first['value']:.0f} to {last['value']:.1f}. The error of trained doses is {first['error']:.2f}," in text
    )
    assert f"and that of pairs of drugs {last['error']:.2f}. Within all" in text and first["value"] < 0.005

    def said(of):
        return f"{of['rank']:.2f} ± {of['rank_half_width']:.2f}"

    assert f"with the error is {said(euclidean.loc['all'])}," in text
    assert f"says more, {said(size.loc['all'])}," in text
    ledger = (ROOT / "book" / "ledger.md").read_text(encoding="utf-8")
    rank = f"rank correlation of {said(euclidean.loc['all'])} with the error, the size of the predicted effect"
    assert f"{rank} {said(size.loc['all'])}," in ledger
    of = [f"{one.loc['withheld dose', 'rank']:.2f}" for one in (euclidean, size)]
    assert f"where the Euclidean distance is best, {of[0]}, size has {of[1]}." in text
    assert euclidean["rank"].idxmax() == "withheld dose"
    assert f"says nothing ({size.loc['pair of drugs', 'rank']:.2f})" in text and f"with {said(last)}." in text
    assert (table.loc["CPA", "cosine"]["value"].drop(["pair of drugs", "all"]) == 0).all()
    spread = [f"{table.loc[('SAMS-VAE', of, 'all'), 'rank']:.2f}" for of in ("spread", "size")]
    assert f"posterior reaches {spread[0]}, as does the size" in text and spread[0] == spread[1]
