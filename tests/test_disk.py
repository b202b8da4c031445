"""Counts on disk: the same numbers as in memory, little read at a time, and what is said of a file that is gone."""

import logging
import shutil

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from conftest import make_data

from samslib.data import disk, quality
from samslib.data.container import PerturbationData
from samslib.evaluate import observed
from samslib.validation import DataError

CELLS, GENES = 90, 12
pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(disk, "PIECE", 40)  # about four rows


@pytest.fixture
def counts() -> ad.AnnData:
    """Counts of which about half are zeros."""
    data = make_data(CELLS, GENES)
    thin = np.random.default_rng(5).random(data.shape) < 0.5
    adata = ad.AnnData(sp.csr_matrix(data.x.multiply(thin), dtype=np.float32))
    adata.obs_names, adata.var_names = data.cells.astype(str), list(data.genes)
    adata.obs["perturbation"], adata.obs["fails"] = data.labels, np.arange(CELLS) % 3 // 2
    return adata


@pytest.fixture(params=["h5ad", "zarr"])
def stored(request, counts, tmp_path) -> ad.AnnData:
    """The same AnnData with X on disk."""
    path = tmp_path / f"cells.{request.param}"
    if request.param == "h5ad":
        counts.write_h5ad(path)
        return ad.read_h5ad(path, backed="r")
    zarr = pytest.importorskip("zarr")
    counts.write_zarr(path)
    return ad.AnnData(ad.io.sparse_dataset(zarr.open_group(path, mode="r")["X"]), obs=counts.obs, var=counts.var)


def both(counts, stored, **options) -> tuple[PerturbationData, PerturbationData]:
    return tuple(PerturbationData.from_anndata(a, **options) for a in (counts, stored))


def test_any_choice_of_rows_and_genes_is_that_in_memory(counts, stored, small_pieces):
    x, y = counts.X.toarray(), disk.OnDisk(stored.X)
    choices = [slice(None), slice(5, 60, 7), np.arange(CELLS) % 4 == 1, [3], [], np.array([80, 2, 2, 41, 40, 3, 80])]
    for rows in choices:
        read = y[rows]
        assert isinstance(read, sp.csr_matrix) and read.dtype == np.float32 and read.has_canonical_format
        np.testing.assert_array_equal(read.toarray(), x[rows])
    part = y.select(np.arange(CELLS)[::-2], [4, 0, 7]).select(slice(1, 20), [2, 0])
    expected = x[::-2][1:20][:, [7, 4]]
    assert part.shape == expected.shape and part.sum() == expected.sum()
    np.testing.assert_array_equal(part[:].toarray(), expected)
    assert [start for start, _ in part.blocks()][:2] != [0], "the case needs several blocks"
    np.testing.assert_array_equal(np.vstack([b.toarray() for _, b in part.blocks()]), expected)


def test_data_on_disk_have_the_numbers_of_those_in_memory(counts, stored, monkeypatch):
    monkeypatch.setattr(disk, "PIECE", 150)  # four pieces
    memory, lazy = both(counts, stored, quality="fails")
    assert isinstance(lazy.x, disk.OnDisk) and repr(lazy) == repr(memory)
    rows = np.random.default_rng(0).permutation(CELLS)[:50]
    genes = np.arange(GENES)[::-1][:9]
    few = [data[rows].select_genes(genes) for data in (memory, lazy)]
    for a, b in ((memory, lazy), (memory[rows], lazy[rows]), few):
        assert isinstance(b.x, disk.OnDisk)
        np.testing.assert_array_equal(a.library, b.library)
        np.testing.assert_array_equal(a.genes_seen(20), b.genes_seen(20))
        one, two = a.summary(pseudobulk=True), b.summary(pseudobulk=True)
        for part in ("mean", "std", "log_mean", "log_std"):
            assert torch.equal(getattr(one, part), getattr(two, part))
        for key, value in vars(one.pseudobulk).items():
            torch.testing.assert_close(value, getattr(two.pseudobulk, key))
        for one, two in zip(a.batches(16), b.batches(16), strict=True):
            assert torch.equal(one.x, two.x) and torch.equal(one.condition.library, two.condition.library)
        np.testing.assert_array_equal(a.x.toarray(), b.to_memory().x.toarray())
    assert memory.to_memory() is memory
    with pytest.raises(DataError, match="have no counts on the 1 selected genes") as caught:
        lazy.select_genes([3])
    cure = str(caught.value).split("first data = ")[1]
    assert len(eval(cure, {"data": lazy, "np": np, "mask": [3]}).select_genes([3])) == (memory.x[:, [3]] > 0).sum()
    np.testing.assert_allclose(quality.with_twins(lazy).twin.toarray(), quality.with_twins(memory).twin.toarray())
    with pytest.raises(DataError, match="to_memory"):
        observed.readouts(lazy, "perturbseq")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64", "float32", "float64", "bool"])
def test_numbers_in_pieces_are_those_in_memory(dtype, counts, tmp_path, small_pieces):
    """Every entry in three pieces, some of them zero, of each type: a byte that held their sum would wrap around."""
    whole = (40 * counts.X.toarray()).clip(0, {"bool": 1, "int8": 120}.get(dtype, 200))
    rows, genes = whole.nonzero()
    values = np.repeat(whole[rows, genes], 3)
    values[2::3] = 0
    starts = np.r_[0, 3 * np.cumsum(np.bincount(rows, minlength=CELLS))]
    x = sp.csr_matrix((values.astype(dtype), np.repeat(genes, 3), starts), shape=whole.shape)
    adata = ad.AnnData(x, obs=counts.obs, var=counts.var)
    adata.write_h5ad(tmp_path / "pieces.h5ad")
    memory, lazy = both(adata, ad.read_h5ad(tmp_path / "pieces.h5ad", backed="r"))
    assert isinstance(lazy.x, disk.OnDisk) and x.nnz == 3 * np.count_nonzero(whole)
    for data in (memory, lazy, lazy.to_memory()):
        np.testing.assert_array_equal(data.batch().x, 2 * whole)
        np.testing.assert_array_equal(data.library, 2 * whole.sum(1))
        np.testing.assert_array_equal(data.select_genes(np.arange(1, GENES)).library, 2 * whole[:, 1:].sum(1))
        np.testing.assert_array_equal(data.genes_seen(20), (whole > 0).sum(0) >= 20)
    for part in ("mean", "std", "log_mean", "log_std"):
        assert torch.equal(getattr(memory.summary(), part), getattr(lazy.summary(), part))
    assert memory.x.nnz == lazy.x[:].nnz and memory.x.dtype == lazy.x[:].dtype == np.float32


def test_little_is_read_at_a_time(counts, stored, small_pieces, monkeypatch):
    """Every reading of summary, sums and batches gives at most a piece, one row more, and the rows between."""
    lazy = both(counts, stored)[1][np.arange(CELLS) % 3 > 0]
    kind, slicing, read = type(lazy.x.source), type(lazy.x.source).__getitem__, []
    monkeypatch.setattr("samslib.data.statistics.BLOCK", 4 * GENES)

    def counted(self, rows):
        found = slicing(self, rows)
        read.append(found.nnz)
        return found

    monkeypatch.setattr(kind, "__getitem__", counted)
    lazy.summary(pseudobulk=True), lazy.x.sum(), lazy.genes_seen(), list(lazy.batches(30))
    assert max(read) <= (disk.PIECE + GENES) * 2 < counts.X.nnz / 3
    assert len(read) > 4 * counts.X.nnz / disk.PIECE / 2


def test_gaps_are_read_along_only_where_short(counts, stored, monkeypatch):
    asked = []
    x = disk.OnDisk(stored.X)
    slicing = type(x.source).__getitem__
    monkeypatch.setattr(type(x.source), "__getitem__", lambda s, i: asked.append(np.flatnonzero(i)) or slicing(s, i))
    np.testing.assert_array_equal(x[[3, 3 + disk.GAP, 50, 51 + disk.GAP]].toarray(), counts.X.toarray()[[3, 7, 50, 55]])
    assert asked[0].tolist() == [3, 4, 5, 6, 7, 50, 55]


def test_window_holds_so_many_values(counts, stored, monkeypatch):
    monkeypatch.setattr(disk, "WINDOW", counts.X.nnz // 3)
    x = disk.OnDisk(stored.X)
    assert x.window() == CELLS // 3 and abs(x.select(slice(0, 30)).window() - 30) < 5


def test_zeros_and_entries_in_pieces_are_read_as_one(counts, tmp_path):
    doubled = sp.csr_matrix((np.array([1.0, 1, 1, 0, 3, 1]), np.array([2, 2, 0, 1, 0, 1]), np.array([0, 3, 5, 6])))
    adata = ad.AnnData(doubled, obs=counts.obs[:3].copy())
    adata.write_h5ad(tmp_path / "doubled.h5ad")
    data = PerturbationData.from_anndata(ad.read_h5ad(tmp_path / "doubled.h5ad", backed="r"))
    assert data.x[:].toarray().tolist() == [[1, 0, 2], [3, 0, 0], [0, 1, 0]] and data.x[:].nnz == 4
    assert data.library.tolist() == [3, 3, 1]


def test_a_layer_on_disk_stays_there(counts, stored):
    layered = ad.AnnData(counts.X * 0.5, obs=counts.obs, var=counts.var, layers={"counts": stored.X})
    data = PerturbationData.from_anndata(layered, layer="counts")
    assert isinstance(data.x, disk.OnDisk) and data.x.sum() == counts.X.sum()


@pytest.mark.parametrize("form", ["dense", "CSC", "view"])
def test_what_cannot_be_read_by_rows_is_taken_into_memory_and_said(counts, form, tmp_path, caplog):
    counts.X = {"dense": counts.X.toarray(), "CSC": counts.X.tocsc(), "view": counts.X}[form]
    counts.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with caplog.at_level(logging.WARNING, "samslib"):
        data = PerturbationData.from_anndata(backed[10:] if form == "view" else backed)
    assert isinstance(data.x, sp.csr_matrix) and "read into memory" in caplog.text
    np.testing.assert_array_equal(data.x.toarray(), sp.csr_matrix(counts.X).toarray()[10 if form == "view" else 0 :])


def test_bad_values_on_disk_are_refused(counts, tmp_path):
    counts.X.data[[0, 100]] = 0.5
    counts.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match="adata.X has fractional values in 2 cells"):
        PerturbationData.from_anndata(ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"))


def test_a_file_that_is_closed_or_gone_is_named(counts, stored, tmp_path):
    lazy = both(counts, stored)[1]
    lazy.batch([0, 1])
    if stored.isbacked:
        stored.file.close()
    else:
        shutil.rmtree(tmp_path / "cells.zarr")
    for read in (lambda: lazy.batch([2]), lazy.summary, lambda: lazy[5:].to_memory()):
        with pytest.raises(
            OSError, match=r"The counts in .*cells\.\w+ can no longer be read .*open it again"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
