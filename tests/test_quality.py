from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import make_data

from samslib.data import quality
from samslib.validation import DataError

GENES = ["MT-CO1", "RPS3", "RPL7", "HBA1", "HBP1", "ACTB", "RPSX", "mt-Nd1"]


def cells(rows, names=GENES, matrix=sp.csr_matrix):
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(rows))])
    return anndata.AnnData(matrix(np.array(rows, dtype=np.float32)), obs=obs, var=pd.DataFrame(index=names))


@pytest.mark.parametrize("matrix", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_measures_of_one_cell_by_hand(matrix):
    """HBP1 is no haemoglobin, and lower case no human mitochondrion."""
    found = quality.measure(cells([[1, 2, 3, 4, 5, 5, 0, 0], [0] * 8, [1] + [0] * 7], matrix=matrix))
    assert found.iloc[0].to_dict() == pytest.approx(
        {"counts": 20, "genes": 6, "percent_mt": 5, "percent_ribo": 25, "percent_hb": 20}
    )
    assert (found.iloc[1] == 0).all() and list(found.index) == ["cell0", "cell1", "cell2"]
    assert found.loc["cell2", "percent_mt"] == 100


@pytest.mark.parametrize("form", ["memory", "layer", "backed", "layer on disk"])
def test_bytes_in_pieces_are_counted_once(form, tmp_path):
    """200 + 200 counts of one gene are 400 of one gene, and not 144 or of two; an explicit zero is none."""
    x = sp.csr_matrix((np.array([200, 200, 100, 0], dtype=np.uint8), [0, 0, 5, 1], [0, 4]), shape=(1, 8))
    adata = cells([[0] * 8])
    adata.X, options = x, {"layer": "counts"} if "layer" in form else {}
    adata.write_h5ad(tmp_path / "cells.h5ad")
    if form == "backed":
        adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    if "layer" in form:
        kept = adata.X
        adata.X = None
        if form == "layer on disk":
            kept = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r").X
        adata.layers["counts"] = kept
    found = quality.measure(adata, **options).iloc[0]
    assert found["counts"] == 500 and found["genes"] == 2 and found["percent_mt"] == 80


def test_limits_are_k_plain_deviations_and_the_limit_itself_passes():
    """Totals 96 to 104: median 100, MAD 2 (with the factor 1.4826 it would be 2.97)."""
    totals = [96, 98, 98, 100, 100, 100, 102, 102, 104, 94, 93]
    rows = [[0, 0, 0, 0, 0, t, 0, 0] for t in totals]
    table = quality.label(cells(rows), k=3)
    assert table.attrs["thresholds"]["counts"] == 94
    assert table["counts"].tolist() == [False] * 10 + [True] and table["fails"].tolist() == table["counts"].tolist()
    assert quality.label(cells(rows), k=4)["fails"].sum() == 0


@pytest.mark.parametrize("gene, column", [(0, "percent_mt"), (2, "percent_ribo"), (3, "percent_hb")])
def test_too_much_of_a_class_fails_and_too_little_does_not(gene, column):
    rows = np.tile([10, 10, 10, 10, 10, 150, 0, 0], (21, 1))
    rows[:10, gene] += 1
    rows[:10, 5] -= 1
    rows[0, gene], rows[0, 5] = 100, 61
    rows[20, gene], rows[20, 5] = 1, 159
    measured = quality.measure(cells(rows))
    limits = quality.thresholds(measured, 5).where(lambda s: s.index == column, np.inf)
    limits[["counts", "genes"]] = 0
    table = quality.label(cells(rows), limits=limits)
    assert table[column].tolist() == [True] + [False] * 20 and table["fails"].sum() == 1


def test_few_genes_fail_and_limits_of_other_cells_can_be_used():
    rng = np.random.default_rng(0)
    names = [f"gene{g}" for g in range(60)] + ["MT-ND1", "RPS3", "HBB"]
    x = rng.poisson(1.0, (200, 63))
    x[7, :50] = 0
    real = cells(x, names)
    table = quality.label(real, k=5)
    assert table.loc["cell7", "genes"] and table["genes"].sum() == 1
    limits = pd.Series(table.attrs["thresholds"])
    pd.testing.assert_frame_equal(quality.label(real[[3, 7]].copy(), limits=limits), table.iloc[[3, 7]])
    with pytest.raises(ValueError, match="k is 3, but limits are given; leave k out"):
        quality.label(real, k=3, limits=limits)


def test_what_cannot_be_labelled_is_refused(caplog):
    good = cells([[1, 2, 3, 4, 5, 5, 0, 0]] * 3)
    for adata, options, message in [
        (good, {"layer": "raw"}, "no 'raw'"),
        (make_data(), {}, "needs an AnnData, not a PerturbationData"),
        (good, {"k": 0}, "k is 0"),
        (cells([[0.5] * 8] * 3), {}, "adata.X has fractional values in 3 cells, but raw counts"),
        (cells([[-1.0] * 8] * 3), {}, "adata.X has negative values in 3 cells"),
        (cells([[np.nan] * 8] * 3), {}, "adata.X has NaN values in 3 cells"),
        (cells([[1] * 8] * 3, [f"ENSG{i}" for i in range(8)]), {}, "ENSG0.*gene symbols"),
    ]:
        with pytest.raises(ValueError, match=message):
            quality.label(adata, **options)
    quality.label(cells([[1, 1]] * 3, ["MT-CO1", "ACTB"]))
    assert "no ribo and no hb genes among these 2" in caplog.text


def test_doublets_are_called_by_score_and_only_when_asked():
    """Two kinds of cells that differ in 30 genes each; sums of both kinds lie apart. Seeded: at this threshold all 15
    were called, and under a tenth of the others."""
    rng = np.random.default_rng(0)
    base = rng.lognormal(0, 1, 300)
    rate = np.stack([base, base])
    rate[0, :30] *= 8
    rate[1, 30:60] *= 8
    x = rng.poisson(rate[rng.integers(2, size=400)])
    x[:15] = rng.poisson(rate[0], (15, 300)) + rng.poisson(rate[1], (15, 300))
    adata = cells(x, ["MT-CO1", *(f"gene{g}" for g in range(299))])
    table = quality.label(adata, doublets=0.14)
    assert table["doublet"][:15].mean() > 0.8 and table["doublet"][15:].mean() < 0.15
    assert table["fails"][table["doublet"]].all() and "doublet" not in quality.label(adata)
    assert list(adata.obs) == []


def test_scrublets_own_threshold_lies_between_the_modes():
    """Four kinds of cells, 60 genes each twentyfold, and 25 sums of two kinds. Seeded; with ten other seeds 24 or
    25 of them were called, and at most 3 % of the others."""
    rng = np.random.default_rng(0)
    rate = np.tile(4 * rng.lognormal(0, 1, 300), (4, 1))
    for kind in range(4):
        rate[kind, 60 * kind : 60 * (kind + 1)] *= 20
    kind = rng.integers(4, size=500)
    x = rng.poisson(rate[kind])
    x[:25] += rng.poisson(rate[(kind[:25] + 1) % 4])
    table = quality.label(cells(x, ["MT-CO1", *(f"gene{g}" for g in range(299))]), doublets=True)
    assert table["doublet"][:25].mean() > 0.9 and table["doublet"][25:].mean() < 0.05


def test_without_two_modes_a_score_is_asked_for(monkeypatch):
    asked = {}  # what it leaves in the cells if it finds no threshold is nothing
    monkeypatch.setattr("scanpy.pp.scrublet", lambda adata, **settings: asked.update(settings))
    for limit, threshold in ((True, None), (0.25, 0.25)):
        with pytest.raises(DataError, match="no threshold.*doublets=0.25"):
            quality.label(cells([[1] * 8] * 3), doublets=limit, seed=5)
        assert asked["threshold"] == threshold and asked["random_state"] == 5


@pytest.mark.parametrize("counts", [True, False])
def test_a_twin_is_the_cell_in_the_other_class(counts):
    """By hand, cell by cell; the means over a label's classes then change places but for the cell that joins them."""
    data = make_data(quality=True)
    x = data.x.toarray() if counts else data.x.toarray() - 5
    data = quality.with_twins(quality.replace(data, x=sp.csr_matrix(x), counts=counts))
    fails, twin = data.qc[:, 0] != 0, data.twin.toarray()
    for i in (0, 7, 14, 33, 60):
        same = data.labels == data.labels[i]
        means = []
        for k in (fails[i], not fails[i]):
            pool = x[same & (fails == k)]
            means.append((pool.sum(0) + x[same].mean(0)) / (len(pool) + 1))
        expected = x[i] * means[1] / means[0] if counts else x[i] + means[1] - means[0]
        np.testing.assert_allclose(twin[i], expected, rtol=1e-4)
    assert twin[fails, -1].mean() < 0.5 * x[fails, -1].mean() or not counts


def test_a_cell_fails_by_any_of_its_flags():
    data = make_data(quality=True)
    second = np.hstack([data.qc, np.roll(data.qc, 1, axis=0)])
    both = quality.with_twins(quality.replace(data, qc=second, quality=("fails", "doublet")))
    union = quality.with_twins(quality.replace(data, qc=second.max(1, keepdims=True)))
    np.testing.assert_array_equal(both.twin.toarray(), union.twin.toarray())


@pytest.mark.filterwarnings("error")
def test_a_label_without_one_of_the_classes_has_no_twins_and_a_gene_nobody_expresses_stays_out():
    data = make_data(quality=True)
    x = data.x.toarray()
    x[data.labels == "B", 3] = 0
    part = quality.replace(data, x=sp.csr_matrix(x))[~((data.labels == "A") & (data.qc[:, 0] != 0))]
    twin = quality.with_twins(part).twin.toarray()
    assert (twin[part.labels == "A"] == 0).all() and (twin[part.labels == "B", 3] == 0).all()
    assert (twin[part.labels != "A"] != 0).any(1).all() and np.isfinite(twin).all()


def test_a_published_twin_is_the_lower_median_of_failing_cells_of_the_same_label():
    """By brute force: with one failing cell of a label its twin is that cell; else each value is one of theirs."""
    data = quality.with_twins(make_data(quality=True), as_published=True)
    fails = data.qc[:, 0] != 0
    x, twin = data.x.toarray(), data.twin.toarray()
    for label in ("control", "A", "B", "C", "A+B"):
        pool = x[fails & (data.labels == label)]
        mine = twin[data.labels == label]
        assert len(pool) == 6 and all(np.isin(mine[:, g], pool[:, g]).all() for g in range(x.shape[1]))
        assert len(np.unique(mine, axis=0)) > 1  # each cell draws its own
    keep = ~fails | (np.cumsum(fails & (data.labels == "A")) == 1) & (data.labels == "A")
    few = quality.with_twins(data[keep], as_published=True)
    (only,) = np.flatnonzero(few.qc[:, 0] != 0)
    here = few.twin.toarray()
    assert only > 0 and (here[few.labels == "A"] == few.x[only].toarray()).all()
    assert (here[few.labels != "A"] == 0).all()


def test_draws_are_with_replacement_and_medians_are_the_lower_ones():
    """From a pool of two failing cells, a twin is the first, the second, or gene by gene the smaller of both; each of
    the three occurs among these twins unless the seed meets a chance below 1 in 50."""
    data = make_data(quality=True)
    pair = np.flatnonzero((data.labels == "A") & (data.qc[:, 0] != 0))[:2]
    rest = np.flatnonzero((data.labels == "A") & (data.qc[:, 0] == 0))
    twins = quality.with_twins(data[np.concatenate([pair, rest])], as_published=True).twin.toarray()
    x = data.x[pair].toarray()
    possible = [x[0], x[1], x.min(0)]
    which = [[np.array_equal(t, p) for p in possible].index(True) for t in twins]
    assert set(which) == {0, 1, 2}


def test_as_many_cells_are_drawn_as_there_are_and_no_more_than_asked():
    """Of two failing cells two are drawn, and the smaller of both is a twin's value half the time where they differ: in
    242 twins within five standard deviations of 0.032; of 50 draws it would be 11%. With `most` 1 a twin is a cell."""
    data = make_data(1800, quality=True)
    fails, is_a = data.qc[:, 0] != 0, data.labels == "A"
    keep = is_a & (~fails | (np.cumsum(fails & is_a) <= 2))
    some = data[keep]
    pair = some.x[some.qc[:, 0] != 0].toarray()
    twins = quality.with_twins(some, as_published=True).twin.toarray()
    smaller = (twins == pair.min(0)).all(1).mean()
    assert len(pair) == 2 and abs(smaller - 0.5) < 5 * np.sqrt(0.25 / len(twins))
    pool = data[fails & is_a].x.toarray()
    single = quality.with_twins(data[is_a], most=1, as_published=True).twin.toarray()
    assert (single[:, None] == pool).all(2).any(1).all()


def test_twins_follow_their_cells_into_batches():
    data = make_data(quality=True)
    rows = [5, 0, 33]
    some = data[rows]
    np.testing.assert_array_equal(some.batch().twin.numpy(), data.twin[rows].toarray())
    np.testing.assert_array_equal(data.batch(rows).twin.numpy(), data.twin[rows].toarray())
    assert some.select_genes([0, 3]).batch().twin.shape == (3, 2) and make_data().batch().twin is None
    a, b, c = (quality.with_twins(data, seed=s, as_published=True).twin.toarray() for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_twins_need_a_flag():
    with pytest.raises(DataError, match="quality flag.*quality="):
        quality.with_twins(make_data())
    with pytest.raises(DataError, match="with_twins needs a PerturbationData"):
        quality.with_twins(cells([[1] * 8] * 3))
    with pytest.raises(ValueError, match="most is 0"):
        quality.with_twins(make_data(quality=True), most=0, as_published=True)
    with pytest.raises(ValueError, match="most is 20, but only as_published draws cells; leave most out"):
        quality.with_twins(make_data(quality=True), most=20)
