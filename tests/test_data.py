"""PerturbationData: what is read, in which form, and every input that is refused."""

import logging
import re
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from samslib.data import DataError, PerturbationData
from samslib.disk import OnDisk

LABELS = [
    "control",
    "control",
    "A",
    "B",
    "B+A",
    "A+B",
    "A+control",
    "control+control",
    "C",
    "C",
    "control+B",
    " B + A ",
]


def counts(labels=LABELS, genes=7, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(1.5, (len(labels), genes)).astype(np.float32)
    x[:, 0] = 3  # a constant gene
    x[:, 1] = 0  # an unseen gene
    adata = ad.AnnData(x, obs=pd.DataFrame(index=[f"c{i}" for i in range(len(labels))]))
    adata.var_names = [f"g{i}" for i in range(genes)]
    adata.obs["perturbation"] = labels
    return adata


def refused(words, adata, **options):
    """The error is a DataError of one line with every word of `words` in it."""
    with pytest.raises(DataError) as caught:
        PerturbationData.from_anndata(adata, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


FORMS = {
    "dense": np.asarray,
    "integer": lambda x: x.astype(np.int64),
    "unsigned": lambda x: x.astype(np.uint16),
    "double": lambda x: x.astype(np.float64),
    "CSR": sp.csr_matrix,
    "CSC": sp.csc_matrix,
    "CSR array": sp.csr_array,
    "integer CSC": lambda x: sp.csc_matrix(x.astype(np.int32)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["memory", "view", "layer", "backed", "backed view"])
def test_every_matrix_form_gives_the_same_sparse_counts(form, where, tmp_path, monkeypatch):
    monkeypatch.setattr("samslib.data.BLOCK", 14)  # two rows a block
    adata, options, rows = counts(), {}, slice(None)
    x = adata.X.copy()
    adata.X = FORMS[form](x)
    if where == "layer":
        adata.layers["counts"], adata.X, options = adata.X, np.full(x.shape, 0.5), {"layer": "counts"}
    if where.startswith("backed"):
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    if where.endswith("view"):
        rows = slice(1, 9)
        adata = adata[rows]
    data = PerturbationData.from_anndata(adata, **options)
    assert isinstance(data.x, OnDisk) == (where == "backed" and form.startswith("CSR"))
    data = data.to_memory()
    assert isinstance(data.x, sp.csr_matrix) and data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x.toarray(), x[rows])
    np.testing.assert_array_equal(data.library, x[rows].sum(1))
    assert data.shape == x[rows].shape and data.genes == tuple(f"g{i}" for i in range(7))


def test_backed_file_is_read_in_row_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("samslib.data.BLOCK", 21)
    adata = counts()
    adata.X = sp.csr_matrix(adata.X)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed, sizes = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), []
    kind, slicing = type(backed.X), type(backed.X).__getitem__
    monkeypatch.setattr(kind, "__getitem__", lambda self, i: sizes.append(i.stop - i.start) or slicing(self, i))
    PerturbationData.from_anndata(backed)
    assert sizes == [3, 3, 3, 3]


def test_the_callers_matrix_is_left_as_it_was():
    adata = counts()
    doubled = sp.csr_matrix(
        (np.ones(4, np.float32), np.array([0, 0, 1, 2]), np.r_[0, 4, np.full(11, 4)].astype(int)),
        shape=(12, 7),
    )
    full = sp.csr_matrix(adata.X + 1)
    full.data[3] = 0  # an explicit zero
    adata.X = full
    assert PerturbationData.from_anndata(adata).x.nnz == 83 and adata.X.nnz == 84
    adata.X = sp.vstack([doubled[:1]] * 12, format="csr")  # an entry in two pieces
    data = PerturbationData.from_anndata(adata)
    assert data.x[0, 0] == 2 and adata.X.nnz == 48


def test_names_have_one_order_and_the_mapping_is_reported(caplog):
    with caplog.at_level(logging.WARNING, "samslib"):
        data = PerturbationData.from_anndata(counts())
    expected = ["control", "control", "A", "B", "A+B", "A+B", "A", "control", "C", "C", "B", "A+B"]
    assert data.labels.tolist() == expected and data.raw_labels.tolist() == LABELS
    assert data.perturbations == ("A", "B", "C")
    dose = [[n in e.split("+") for n in "ABC"] for e in expected]
    np.testing.assert_array_equal(data.dose.toarray(), dose)
    assert data.guides.tolist() == np.sum(dose, 1).tolist()
    assert data.n_treated.tolist() == [5, 5, 2]
    assert data.names.loc["B+A"].tolist() == ["A+B", 1] and data.names.loc["C"].tolist() == ["C", 2]
    assert data.names["cells"].sum() == 12
    (record,) = caplog.records
    message = record.getMessage()
    assert (
        "5 of 10 perturbation names rewritten" in message and "5 merged" in message and "'B+A' is now 'A+B'" in message
    )
    assert data.conditions()["cells"].to_dict() == {"control": 3, "A": 2, "B": 2, "C": 2, "A+B": 3}
    assert repr(data) == "PerturbationData: 12 cells x 7 genes, 3 perturbations in 5 conditions, 3 cells of control"
    caplog.clear()
    PerturbationData.from_anndata(counts(["control", "A", "B", "A+B"]))
    assert not caplog.records


def test_a_control_label_that_holds_the_separator():
    data = PerturbationData.from_anndata(counts(["N1_N2", "A_N1", "N2_B", "B_A"]), control="N1_N2", separator="_")
    assert data.labels.tolist() == ["N1_N2", "A", "B", "A_B"]


def test_without_separator_or_control_names_stay_whole():
    data = PerturbationData.from_anndata(counts(["B+A", "A", "A+B", "A"]), control=None, separator=None)
    assert data.perturbations == ("A", "A+B", "B+A") and data.control is None and data.n_treated.tolist() == [2, 1, 1]


def test_doses_follow_the_names_as_written():
    adata = counts(["B+A", "A+B", "control", "A", "control+B", "C+A"])
    adata.obs["dose"] = ["0.5+2", "3+4", "1+1", "7", "0+6", "8 + 9"]
    data = PerturbationData.from_anndata(adata, dose="dose")
    expected = [[2, 0.5, 0], [3, 4, 0], [0, 0, 0], [7, 0, 0], [0, 6, 0], [9, 0, 8]]
    np.testing.assert_array_equal(data.dose.toarray(), expected)
    assert data.n_treated.tolist() == [4, 3, 1]  # cells, whatever their doses
    adata.obs["dose"] = pd.Categorical(adata.obs["dose"])
    again = PerturbationData.from_anndata(adata, dose="dose")
    np.testing.assert_array_equal(again.dose.toarray(), expected)
    adata.obs["amount"] = [
        2.0,
        2,
        np.nan,
        3,
        0.25,
        1,
    ]  # a number counts for every part, a control's is not read
    data = PerturbationData.from_anndata(adata, dose="amount")
    np.testing.assert_array_equal(
        data.dose.toarray(), [[2, 2, 0], [2, 2, 0], [0, 0, 0], [3, 0, 0], [0, 0.25, 0], [1, 0, 1]]
    )


def test_dose_of_seen_and_unseen_conditions():
    adata = counts(["A"] * 3 + ["B+A"] * 3 + ["C", "control"])
    adata.obs["dose"] = ["2", "2", "1", "0.5+3", "0.5+3", "1+1", "4", "0"]
    data = PerturbationData.from_anndata(adata, dose="dose")
    assert data.dose_of("A").tolist() == [[2, 0, 0]]
    assert data.dose_of("A+B").tolist() == data.dose_of("B+A").tolist() == [[3, 0.5, 0]]
    assert data.dose_of("control").tolist() == [[0, 0, 0]] and data.dose_of("control+C").tolist() == [[0, 0, 4]]
    assert data.dose_of("C+B").tolist() == [[0, 0.5, 4]]
    assert data[:3].dose_of("C").tolist() == [[0, 0, 1]], "a column without cells counts 1"
    for wrong, words in {
        "a": "did you mean 'A'",
        "A+Q": "'Q' in 'A+Q'",
        "A+A": "twice",
        "": "is not one of",
    }.items():
        with pytest.raises(DataError, match=re.escape(words)):
            data.dose_of(wrong)


def test_unique_encoding_has_a_column_a_condition():
    data = PerturbationData.from_anndata(counts())
    unique = data.encode_unique()
    assert unique.perturbations == ("A", "A+B", "B", "C") and unique.encode_unique() is unique
    for label, dose in zip(data.labels, unique.dose.toarray(), strict=True):
        assert dose.tolist() == [float(label == p) for p in unique.perturbations]
    assert unique.guides.tolist() == data.guides.tolist()
    assert unique.dose_of("B+A").tolist() == [[0, 1, 0, 0]]
    with pytest.raises(DataError, match="'A\\+C' in 'C\\+A' is not one of the conditions"):
        unique.dose_of("C+A")
    adata = counts()
    adata.obs["dose"] = 2.0
    with pytest.raises(DataError, match="dose of 1 everywhere"):
        PerturbationData.from_anndata(adata, dose="dose").encode_unique()


def test_rows_batches_and_genes():
    adata = counts()
    adata.obs["batch"], adata.obs["bad"] = ["x", "y"] * 6, [True, False, False] * 4
    data = PerturbationData.from_anndata(adata, covariates=["batch"], quality="bad")
    assert data.covariates == ("batch=x", "batch=y") and data.quality == ("bad",)
    mask = np.arange(12) % 5 == 0
    for rows in (mask, np.flatnonzero(mask), slice(0, 12, 5), torch.tensor([0, 5, 10]), [0, 5, 10]):
        part, batch = data[rows], data.batch(rows, torch.float64)
        assert part.cells.tolist() == ["c0", "c5", "c10"] and len(part) == 3
        np.testing.assert_array_equal(part.x.toarray(), adata.X[mask])
        assert batch.x.dtype == torch.float64
        np.testing.assert_array_equal(batch.x.numpy(), adata.X[mask])
        np.testing.assert_array_equal(batch.condition.dose.numpy(), data.dose.toarray()[mask])
        np.testing.assert_array_equal(batch.condition.library.numpy()[:, 0], adata.X[mask].sum(1))
        assert batch.condition.covariate.tolist() == [[1, 0], [0, 1], [1, 0]]
        assert batch.condition.qc.tolist() == [[1], [0], [0]]
    assert len(data[4]) == 1 and len(data[[]]) == 0
    sizes = [len(b) for b in data.batches(5)]
    assert sizes == [5, 5, 2]
    np.testing.assert_array_equal(torch.cat([b.x for b in data.batches(5)]), adata.X)
    with pytest.raises(DataError, match="mask has 3 values for 12 cells"):
        data[np.array([True, False, True])]
    with pytest.raises(DataError, match="by positions, a mask or a slice"):
        data[["c0"]]
    with pytest.raises(IndexError):
        data[[12]]
    with pytest.raises(DataError, match="batch size is 0"):
        data.batches(0)

    seen = data.genes_seen(3)
    np.testing.assert_array_equal(seen, (adata.X > 0).sum(0) >= 3)
    assert data.genes_seen(12)[0] and not data.genes_seen(13)[0]
    few = data.select_genes(seen)
    assert few.genes == tuple(np.array(data.genes)[seen]) and "g1" not in few.genes
    np.testing.assert_array_equal(few.library, adata.X[:, seen].sum(1))
    assert data.select_genes([0, 3]).genes == ("g0", "g3")
    with pytest.raises(DataError, match="No gene is selected"):
        data.select_genes(np.zeros(7, bool))


def test_select_genes_refuses_to_leave_empty_cells():
    data = PerturbationData.from_anndata(counts())
    with pytest.raises(DataError, match="12 cells have no counts on the 1 selected genes"):
        data.select_genes([1])


@pytest.mark.parametrize("dense", [False, True])
def test_summary_is_that_of_numpy_in_double_precision(dense, monkeypatch):
    monkeypatch.setattr("samslib.data.BLOCK", 21)  # three rows a block
    adata = counts()
    adata.X[:, 2] = 5  # constant, but the mean of its logarithm is rounded
    if dense:
        adata.X = adata.X - 0.25
    adata.obs["bad"], adata.obs["batch"] = [1, 0, 0] * 4, "one"
    options = dict(quality=["bad"], covariates="batch", counts=not dense)
    data = PerturbationData.from_anndata(adata, **options)
    assert isinstance(data.x, np.ndarray) == dense
    train = data[1:]
    torch.set_default_dtype(torch.float64)
    try:
        summary = data.summary(train)
    finally:
        torch.set_default_dtype(torch.float32)
    x = adata.X[1:].astype(np.float64)
    for values, mean, std in (
        (x, summary.mean, summary.std),
        (np.log1p(x), summary.log_mean, summary.log_std),
    ):
        expected = values.std(0, ddof=1)
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(std, np.where(np.isclose(expected, 0), 1, expected), rtol=1e-12)
    assert summary.n_cells == 11 and summary.n_treated == tuple(train.n_treated) and summary.n_flagged == (3,)
    assert summary.genes == data.genes and summary.perturbations == ("A", "B", "C") and summary.control == "control"
    assert summary.covariates == ("batch=one",) and summary.quality == ("bad",)
    assert data.summary().n_cells == 12
    with pytest.raises(DataError, match="other genes"):
        data.summary(data.select_genes([0, 2]))
    with pytest.raises(DataError, match="has 1 cell;"):
        data.summary(data[:1])


def test_real_values_may_be_anything_finite():
    adata = counts()
    adata.X = np.random.default_rng(0).normal(size=adata.shape)
    data = PerturbationData.from_anndata(adata, counts=False)
    np.testing.assert_array_equal(data.x, adata.X.astype(np.float32))
    assert set(data.library) == {1.0} and set(data.select_genes([0, 1]).library) == {1.0}
    summary = data.summary()
    assert torch.isfinite(summary.std).all() and torch.isnan(summary.log_mean).any(), (
        "log(1 + x) of x <= -1 is not a number"
    )
    adata.X = sp.csr_matrix(adata.X)
    assert sp.issparse(PerturbationData.from_anndata(adata, counts=False).x)
    adata.X.data[0] = np.inf
    refused(["infinite values in 1 cell;"], adata, counts=False)


def test_split_parts_and_the_cells_left_out(caplog):
    data = PerturbationData.from_anndata(counts(["control", "A", "B", "C"] * 3))
    words = np.array(["train"] * 5 + ["val"] * 3 + ["test"] * 2 + [""] * 2)
    with caplog.at_level(logging.WARNING, "samslib"):
        parts = data.split(lambda d: words)
    assert [len(p) for p in parts] == [5, 3, 2] and parts[1].cells.tolist() == ["c5", "c6", "c7"]
    assert "2 cells of 12 are in no part" in caplog.text
    for wrong, message in {
        "short": "4 labels for 12 cells",
        "word": "'validation'",
        "one": "The test split has 1 cell; at least 2",
        "none": "The val split has 0 cells",
    }.items():
        given = {
            "short": words[:4],
            "word": np.where(words == "val", "validation", words),
            "one": np.r_[words[:9], ["", "", ""]],
            "none": np.where(words == "val", "", words),
        }[wrong]
        with pytest.raises(DataError, match=re.escape(message)):
            data.split(lambda d, given=given: given)


def test_each_missing_or_misspelt_name_is_named():
    adata = counts()
    adata.layers["counts"] = adata.X
    refused(
        ["adata.obs has no column 'perturbations'", "did you mean 'perturbation'?"],
        adata,
        perturbation="perturbations",
    )
    refused(["no column 'dos'", "'perturbation'"], adata, dose="dos")
    refused(["no column 'batch'"], adata, covariates=["batch"])
    refused(["no column 'fail'"], adata, quality=["fail"])
    refused(["adata.layers has no 'count'", "did you mean 'counts'?"], adata, layer="count")
    refused(
        ["labelled 'ctrl'", "did you mean 'control'?", "Labels found: ' B + A ', 'A', 'A+B'", "control=None"],
        adata,
        control="ctrl",
    )
    refused(["labelled 'wild type'", "did you mean 'control'?"], adata, control="wild type")
    refused(["needs an AnnData, not a DataFrame"], adata.obs)
    refused(["separator is an empty text"], adata, separator="")
    refused(["control label is empty"], adata, control=" ")


def test_control_cells_must_be_there():
    refused(["no control cells", "only inside names such as 'A+control'"], counts(["A+control", "B", "A", "B"]))
    refused(["no control cells", "labelled 'control'"], counts(["A", "B", "A", "B"]))
    adata = counts(["A", "B", "A", "B"])
    adata.obs["perturbation"] = pd.Categorical(adata.obs["perturbation"], categories=["A", "B", "control"])
    refused(["no control cells"], adata)
    refused(["Every cell in adata.obs['perturbation'] is a control"], counts(["control", "control+control"]))


@pytest.mark.parametrize("nothing", ["", " ", "nan", "NaN", "none", "None", "<NA>", np.nan, None, pd.NA])
def test_a_perturbation_named_like_nothing(nothing):
    labels = pd.Series(["control", "A", nothing, nothing], dtype=object)
    refused(
        ["2 cells have no perturbation in adata.obs['perturbation']", "drop the cells"],
        counts(labels.tolist()),
    )
    adata = counts(["control", "A", "B", "B"])
    adata.obs["perturbation"] = pd.Categorical(labels)
    refused(["2 cells have no perturbation"], adata)


@pytest.mark.parametrize("name", ["+", "++", "A+", "+A", "A++B", "A+nan", " + "])
def test_a_name_with_an_empty_part(name):
    refused([repr(name), "(2 cells)", "part that names nothing"], counts(["control", "A", name, name]))


def test_none_may_be_the_control():
    assert PerturbationData.from_anndata(counts(["none", "A", "A+none"]), control="none").labels.tolist() == [
        "none",
        "A",
        "A",
    ]


def test_a_gene_named_twice_is_refused():
    refused(["'A+B+A'", "(2 cells)", "names 'A' twice", "dose="], counts(["control", "A+B+A", "A+B+A", "B"]))


def bad_matrix(value, sparse):
    adata = counts()
    adata.X[3, 2], adata.X[7, 2], adata.X[7, 3] = value, value, value
    adata.X = sp.csc_matrix(adata.X) if sparse else adata.X
    return adata


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "value, kind",
    [(np.nan, "NaN"), (np.inf, "infinite"), (-1, "negative"), (0.5, "fractional"), (2.0**25, "too large")],
)
def test_bad_counts_are_counted_over_all_blocks(value, kind, sparse, monkeypatch):
    monkeypatch.setattr("samslib.data.BLOCK", 14)
    refused([f"adata.X has {kind} values in 2 cells"], bad_matrix(value, sparse))


def test_fractional_counts_name_what_looks_raw():
    adata = counts()
    raw = adata.X.copy()
    adata.X = np.log1p(raw)
    refused(["raw counts are needed", "no other layer looks raw"], adata)
    adata.raw = ad.AnnData(raw, obs=adata.obs, var=adata.var)
    refused(["raw seems adata.raw.to_adata()"], adata)
    adata.layers["scaled"], adata.layers["umi"] = np.sqrt(raw), sp.csr_matrix(raw)
    refused(["12 cells", "raw seems layer='umi': pass that"], adata)
    adata.X = raw
    refused(["adata.layers['scaled'] has fractional", "layer='umi'"], adata, layer="scaled")
    del adata.layers["umi"]
    refused(["raw seems layer=None (adata.X)"], adata, layer="scaled")


def test_empty_cells_duplicates_and_empty_tables():
    adata = counts()
    adata.X[[2, 5]] = 0
    refused(
        ["2 cells of 12 have no counts", "adata = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()"],
        adata,
    )
    cured = adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()  # the remedy works
    assert len(PerturbationData.from_anndata(cured)) == 10
    adata = counts()
    adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    refused(["1 gene name(s) occur more than once ('g0')", "adata.var_names_make_unique()"], adata)
    adata = counts()
    adata.obs_names = ["c1", "c1", *adata.obs_names[2:]]
    refused(["1 cell name(s)", "adata.obs_names_make_unique()"], adata)
    refused(["no genes"], counts()[:, []])
    refused(["has 1 cell; at least 2"], counts()[:1])
    adata = counts()
    adata.X = None
    refused(["adata.X is empty", "layer="], adata)


@pytest.mark.parametrize(
    "dose, words",
    [
        ("1+1+1", ["'1+1+1'", "'B+A'", "3 part(s) for 2"]),
        ("1", ["1 part(s) for 2"]),
        ("1+-2", ["above zero"]),
        ("1+nan", ["above zero"]),
        ("1+0", ["above zero", "should not be named after it"]),
        ("1+inf", ["finite"]),
        ("1+high", ["is not a number"]),
        (np.nan, ["above zero"]),
        (-1.0, ["above zero"]),
        (None, ["adata.obs['dose']"]),
    ],
)
def test_bad_doses(dose, words):
    adata = counts(["control", "A", "B+A", "B"])
    adata.obs["dose"] = pd.Series(["1", "1", dose, "1"], dtype=object).to_numpy()
    refused([*words, "adata.obs['dose']"], adata, dose="dose")


def test_bad_covariates_and_flags():
    adata = counts()
    adata.obs["batch"], adata.obs["age"] = ["x", None] * 6, np.linspace(0, 1, 12)
    refused(["covariate adata.obs['batch'] is missing in 6 cells"], adata, covariates="batch")
    refused(["adata.obs['age'] is continuous", "pd.cut"], adata, covariates="age")
    adata.obs["flag"] = [0, 1, 2] * 4
    refused(["adata.obs['flag'] is not 0 or 1 in 4 cells"], adata, quality="flag")
    adata.obs["flag"] = ["pass", "fail"] * 6
    refused(["in 12 cells"], adata, quality="flag")
    adata.obs["flag"] = [0, np.nan] * 6
    refused(["in 6 cells"], adata, quality="flag")


def test_a_batch_of_a_genome_wide_screen_is_quick():
    """Shapes of the filtered Replogle screen: 512 of many cells, 1,187 genes; a hundredth of a step's time is
    ample."""
    rng = np.random.default_rng(0)
    block = sp.csr_matrix(rng.poisson(0.5, (4000, 1187)).astype(np.float32))
    adata = ad.AnnData(sp.vstack([block] * 5, format="csr"), obs=pd.DataFrame(index=[f"c{i}" for i in range(20000)]))
    adata.obs["perturbation"] = np.r_[["control"] * 200, [f"P{i % 722}" for i in range(19800)]]
    data = PerturbationData.from_anndata(adata)
    seconds = []
    for seed in range(5):
        rows = np.random.default_rng(seed).choice(len(data), 512, replace=False)
        start = time.perf_counter()
        batch = data.batch(rows)
        seconds.append(time.perf_counter() - start)
    assert batch.x.shape == (512, 1187) and min(seconds) < 0.05
