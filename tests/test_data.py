"""PerturbationData: what is read, in which form, and every input that is refused."""

import logging
import re
import time
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from conftest import make_data

from samslib import checkpoint
from samslib.data import splits
from samslib.data.container import PerturbationData
from samslib.data.disk import OnDisk
from samslib.evaluate.observed import reference_cells
from samslib.evaluate.predictors import predictors
from samslib.evaluate.tables import arms
from samslib.models import SAMSVAE
from samslib.validation import DataError

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


@pytest.fixture
def warned(caplog):
    """Reads an AnnData and gives the data and what was logged."""

    def read(adata, **options):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "samslib"):
            data = PerturbationData.from_anndata(adata, **options)
        return data, [record.getMessage() for record in caplog.records]

    return read


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
    "bytes": lambda x: sp.csr_matrix(x.astype(np.uint8)),
    "half": lambda x: x.astype(np.float16),
    "double": lambda x: x.astype(np.float64),
    "CSR": sp.csr_matrix,
    "CSC": sp.csc_matrix,
    "CSR array": sp.csr_array,
    "integer CSC": lambda x: sp.csc_matrix(x.astype(np.int32)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("where", ["memory", "view", "layer", "backed", "backed view"])
def test_every_matrix_form_gives_the_same_sparse_counts(form, where, tmp_path, monkeypatch):
    monkeypatch.setattr("samslib.data.statistics.BLOCK", 14)  # two rows a block
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
    assert isinstance(data.x, OnDisk) == (where == "backed" and form.startswith(("CSR", "bytes")))
    data = data.to_memory()
    assert isinstance(data.x, sp.csr_matrix) and data.x.dtype == np.float32
    np.testing.assert_array_equal(data.x.toarray(), x[rows])
    np.testing.assert_array_equal(data.library, x[rows].sum(1))
    assert data.shape == x[rows].shape and data.genes == tuple(f"g{i}" for i in range(7))


def test_backed_file_is_read_in_row_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("samslib.data.statistics.BLOCK", 21)
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


TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64", "bool"]


def in_pieces(dtype):
    """Three cells x four genes whose entries stand in pieces of the largest values that a byte holds, some of them
    zero; and the sums."""
    many = {"bool": 1, "int8": 120}.get(dtype, 200)
    values, genes, starts = [many, many, 3, 0, 1, many, many, many], [2, 2, 0, 1, 1, 3, 3, 3], [0, 4, 5, 8]
    values = np.array(values).astype(dtype)
    sums = np.zeros((3, 4))
    np.add.at(sums, (np.repeat([0, 1, 2], np.diff(starts)), genes), values.astype(float))
    return sp.csr_matrix((values, genes, starts), shape=(3, 4)), sums


def three_cells(x):
    return ad.AnnData(x, obs=pd.DataFrame({"perturbation": ["control", "A", "B"]}, index=["c0", "c1", "c2"]))


@pytest.mark.parametrize("form", ["CSR", "CSC", "dense"])
@pytest.mark.parametrize("where", ["memory", "layer", "backed"])
@pytest.mark.parametrize("dtype", TYPES)
def test_small_integers_do_not_wrap_around(dtype, where, form, tmp_path):
    """Two pieces of 200 are 400, and not the 144 of a byte, wherever they lie; the same for the sum of a cell."""
    pieces, sums = in_pieces(dtype)
    if form == "dense":
        sums = np.minimum(sums, 1 if dtype == "bool" else 120)
    adata, options = three_cells({"CSR": pieces, "CSC": pieces.tocsc(), "dense": sums.astype(dtype)}[form]), {}
    if where == "layer":
        adata.layers["counts"], adata.X, options = adata.X, None, {"layer": "counts"}
    if where == "backed":
        adata.write_h5ad(tmp_path / "cells.h5ad")
        adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    data = PerturbationData.from_anndata(adata, **options)
    np.testing.assert_array_equal(data.library, sums.sum(1))
    np.testing.assert_array_equal(data.batch().x, sums)
    np.testing.assert_array_equal(data.select_genes([1, 2, 3, 0]).library, sums.sum(1))
    np.testing.assert_allclose(data.summary().mean, sums.mean(0), rtol=1e-6)
    assert data.to_memory().x.nnz == (sums > 0).sum(), "no zero is stored"


@pytest.mark.parametrize("backed", [False, True])
def test_sums_too_large_for_float32_are_refused(backed, tmp_path):
    """Two pieces of 2**24 - 1; and one whole number that float32 would round to 2**24."""
    for name, values, genes in (
        ("pieces", [2**24 - 1, 2**24 - 1, 1, 1], [0, 0, 1, 0]),
        ("one", [2**24 + 1, 1, 1, 1], [0, 1, 1, 0]),
    ):
        adata = three_cells(sp.csr_matrix((np.array(values, dtype=np.int32), genes, [0, 2, 3, 4]), shape=(3, 4)))
        if backed:
            adata.write_h5ad(tmp_path / f"{name}.h5ad")
            adata = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        refused(["too large values in 1 cell", "2**24"], adata)
    adata = three_cells(np.array([[2**24, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]))
    data = PerturbationData.from_anndata(adata)
    assert data.library[0] == data.select_genes([0, 1]).library[0] == 2**24 + 1, "which float32 does not hold"


def test_integers_put_in_place_of_x_are_made_float():
    data = PerturbationData.from_anndata(three_cells(np.full((3, 4), 200.0)))
    for x in (np.full((3, 4), 200, dtype=np.uint8), sp.csr_matrix(np.full((3, 4), 200, dtype=np.uint8))):
        other = replace(data, x=x)
        assert other.x.dtype == np.float32 and other.x.sum() == 2400 and other.genes_seen(3).all()
        assert set(other.select_genes([0, 1, 2]).library) == {600}


def test_values_that_are_masked_or_beyond_float32_are_refused():
    adata = counts()
    adata.X = np.ma.masked_array(adata.X, mask=np.arange(84).reshape(12, 7) == 5)
    refused(["adata.X has NaN values in 1 cell"], adata)
    adata = counts()
    adata.X = adata.X.astype(np.float64) * 1e39
    refused(["too large values in 12 cells", "float32"], adata, counts=False)
    adata.X = sp.csr_matrix(counts().X.astype(np.float32))
    adata.X.data = adata.X.data.astype(np.float16)
    refused(["float16"], adata)


def test_names_have_one_order_and_the_mapping_is_reported(caplog):
    with caplog.at_level(logging.WARNING, "samslib"):
        data = PerturbationData.from_anndata(counts())
    expected = ["control", "control", "A", "B", "A+B", "A+B", "A", "control", "C", "C", "B", "A+B"]
    assert data.labels.tolist() == expected and data.raw_labels.tolist() == LABELS
    assert data.perturbations == ("A", "B", "C")
    dose = [[n in e.split("+") for n in "ABC"] for e in expected]
    np.testing.assert_array_equal(data.dose.toarray(), dose)
    assert data.n_perturbations.tolist() == np.sum(dose, 1).tolist()
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


def test_a_control_is_a_whole_part_of_a_name(warned):
    """No piece of a label is a control, unless the label only repeats it; the label is one part wherever it stands."""
    labels = ["non+targeting", "A", "B", "A+B", "non+A", "non+targeting+B", "A + non+targeting", "A+non"]
    data, said = warned(counts(labels), control="non+targeting")
    assert data.labels.tolist() == ["non+targeting", "A", "B", "A+B", "A+non", "B", "A", "A+non"]
    assert data.perturbations == ("A", "B", "non") and data.control == "non+targeting"
    assert any("look like controls: 'non';" in text for text in said)
    adata = counts(labels)
    adata.obs["dose"] = ["1", "2", "3", "4+5", "6+7", "1+8", "9+1", "10+11"]
    doses = PerturbationData.from_anndata(adata, control="non+targeting", dose="dose").dose.toarray()
    assert doses.tolist() == [
        [0, 0, 0], [2, 0, 0], [0, 3, 0], [4, 5, 0], [7, 0, 6], [0, 8, 0], [9, 0, 0], [10, 0, 11],
    ]  # fmt: skip
    refused(["twice", "'non+non+targeting'"], counts(["a+b", "A", "non+non+targeting"]), control="a+b")
    data, said = warned(counts(["N1_N2", "A_N1", "N2_B", "B_A"]), control="N1_N2", separator="_")
    assert data.labels.tolist() == ["N1_N2", "A_N1", "B_N2", "A_B"]
    assert any("'N1', 'N2'; if they are, pass control=['N1_N2', 'N1', 'N2']" in text for text in said)
    data, said = warned(counts(["N1_N2", "A_N1", "N2_B", "B_A"]), control=["N1_N2", "N1", "N2"], separator="_")
    assert data.labels.tolist() == ["N1_N2", "A", "B", "A_B"] and "look like" not in " ".join(said)


@pytest.mark.parametrize(
    "control, separator, labels, expected",
    [
        ("ctrl", "+", ["ctrl", "KLF1+ctrl", "ctrl+SET", "KLF1+SET"], ["ctrl", "KLF1", "SET", "KLF1+SET"]),
        ("ctrl+ctrl", "+", ["ctrl+ctrl", "KLF1+ctrl", "SET", "SET+KLF1"], ["ctrl+ctrl", "KLF1", "SET", "KLF1+SET"]),
        ("control", "+", ["control", "KLF1", "control+SET", "KLF1+SET"], ["control", "KLF1", "SET", "KLF1+SET"]),
        (
            "NegCtrl0_NegCtrl0",
            "_",
            ["NegCtrl0_NegCtrl0", "KLF1_NegCtrl0", "NegCtrl0_SET", "KLF1_SET"],
            ["NegCtrl0_NegCtrl0", "KLF1", "SET", "KLF1_SET"],
        ),
    ],
)
def test_the_names_that_norman_was_published_under(warned, control, separator, labels, expected):
    data, said = warned(counts(labels), control=control, separator=separator)
    assert data.labels.tolist() == expected and data.perturbations == ("KLF1", "SET")
    assert all("rewritten" in text for text in said)


def test_several_labels_of_controls_become_one(warned):
    labels = ["NT_1", "NT_2", "NT_3", "A", "NT_2+NT_1", "B+NT_3", "NT_1+A", "A+B", "B"]
    adata = counts(labels)
    for given in (["NT_1", "NT_2", " NT_3"], ("NT_1", "NT_2", "NT_3"), np.array(["NT_1", "NT_2", "NT_3", "NT_1"])):
        data, said = warned(adata, control=given)
        assert data.labels.tolist() == ["NT_1", "NT_1", "NT_1", "A", "NT_1", "B", "A", "A+B", "B"]
        assert data.control == "NT_1" and data.controls == ("NT_1", "NT_2", "NT_3")
        assert data.perturbations == ("A", "B") and data.n_treated.tolist() == [3, 3]
        assert len(said) == 1 and "'NT_2' is now 'NT_1'" in said[0]
    part = data[2:].encode_unique()
    for some in (data, part):
        assert some.dose_of("NT_3").sum() == some.dose_of("NT_2+NT_3").sum() == 0
        assert torch.equal(some.dose_of("A+NT_2"), some.dose_of("A"))
        assert arms(some, ["B+NT_2", "A"])[0] == ["B", "A"]
    words = np.array(["train", "train", "val", "train", "val", "train", "train", "val", "val"])
    made = predictors(data[words == "train"], data[words == "val"], data, ["B+NT_2"])
    assert list(made["training cells"].obs_names) == ["B"]
    assert PerturbationData.from_anndata(adata, control=["NT_1"]).controls == ("NT_1",)
    refused(["control label is empty"], adata, control=[])
    refused(["control label is empty"], adata, control=["NT_1", " "])
    refused(["labelled 'x' or 'y'"], adata, control=["x", "y"])


def test_models_of_data_with_several_controls_are_saved_and_loaded(tmp_path):
    data = PerturbationData.from_anndata(counts(["NT_1", "NT_2", "A", "A"]), control=["NT_1", "NT_2"])
    summary = data.summary()
    assert summary.control == "NT_1"
    model = SAMSVAE(summary, latent=2, encoder_width=4, decoder_width=4)
    assert checkpoint.load(checkpoint.save(model, tmp_path / "model.safetensors")).summary.control == "NT_1"


def test_a_control_label_without_cells_is_named(warned):
    data, said = warned(counts(["control", "A", "B"]), control=["control", "NT_1", "NT_2"])
    assert data.perturbations == ("A", "B") and said == [
        "No cell is labelled 'NT_1', 'NT_2', as controls were said to be"
    ]


@pytest.mark.parametrize(
    "label",
    ["Control", "ctrl", "NT", "NT_1", "NTC-12", "sgNT3", "NegCtrl0", "neg_control", "non-targeting_01|non-targeting_7",
     "Non-Targeting", "no target", "nontargeting_ACGTACGTACGT", "DMSO", "vehicle", "mock", "scrambled 2", "untreated"],
)  # fmt: skip
def test_perturbations_that_look_like_controls_are_named(warned, label):
    data, said = warned(counts(["control", "A", label, "NT5C", "NTRK1", "TARGET"]))
    assert label in data.perturbations
    assert said == [
        f"Perturbations that look like controls: {label!r}; if they are, pass control=['control', {label!r}]"
    ]
    refused([f"did you mean {label!r}?"], counts(["A", "NT5C", label]), control="wild type")


def test_all_likely_controls_are_proposed():
    adata = counts(["NT_1", "A", "NT_2", "B", "B+non-targeting"])
    refused(["labelled 'control'; did you mean control=['NT_1', 'NT_2', 'non-targeting']? Labels"], adata)


def test_names_that_come_apart_into_no_names_are_refused():
    for name, part in (("(+)-JQ1", "'('"), ("A (x+y)", "'A (x'"), ("[a+b", "'[a'"), ("A+-", "'-'"), ("B+?", "'?'")):
        refused([repr(name), f"({part})", "another separator, or None"], counts(["control", "B", name, name]))
    data = PerturbationData.from_anndata(counts(["control", "B", "(+)-JQ1", "A (x+y)"]), separator=None)
    assert data.perturbations == ("(+)-JQ1", "A (x+y)", "B")
    data = PerturbationData.from_anndata(counts(["control", "p(x)", "B", "p(x)+B", "A)"]))
    assert data.perturbations == ("A)", "B", "p(x)"), "brackets are looked at where a name was cut"
    refused(["'*'", "names nothing"], counts(["control", "B", "*"]))
    assert PerturbationData.from_anndata(counts(["*", "B", "A"]), control="*").perturbations == ("A", "B")


def test_parts_that_never_occur_alone_are_named(warned):
    """As guides with a strand, which the separator cuts; and as a few genes of a true screen of pairs."""
    _, said = warned(counts(["control", "RPS5_+_1.23-P1", "RPL3_-_9.8-P1", "RPS6_+_4.5-P1"]))
    (text,) = (text for text in said if "rewritten" not in text)
    assert "combinations only: 'RPS5_', 'RPS6_', '_1.23-P1' and 1 more" in text and "separator=None" in text
    assert "'RPS5_+_1.23-P1'" in text
    _, said = warned(counts(["control", "A", "B", "A+B", "A+C"]))
    assert len(said) == 1 and "combinations only: 'C';" in said[0] and "'A+C'" in said[0]
    assert not warned(counts(["control", "A", "B", "A+B"]))[1]
    assert not warned(counts(["control", "A", "A+control", "B+control", "A+B"]))[1][1:]


def test_a_separator_that_no_name_holds_is_doubted(warned):
    for labels, name in (
        (["control", "KLF1", "SET", "KLF1_SET"], "KLF1_SET"),
        (["control", "SET_control"], "SET_control"),
    ):
        data, said = warned(counts(labels))
        assert name in data.perturbations and len(said) == 1 and f"{name!r} looks like" in said[0]
        assert "separator='_'?" in said[0] and not warned(counts(labels), separator=None)[1]
    for labels in (["control", "RPS5_P1", "RPS5_P2", "P01_a"], ["control", "HLA-A", "A|B", "A"]):
        assert not warned(counts(labels))[1]


def test_names_that_differ_in_case_are_named(warned):
    _, said = warned(counts(["control", "KLF1", "klf1", "SET"]))
    assert len(said) == 1 and "differ only in case: 'KLF1', 'klf1';" in said[0]


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
    adata.obs["dose"] = ["2", "2", "1", "0.5+3", "0.5+3", "2+2", "4", "0"]
    data = PerturbationData.from_anndata(adata, dose="dose")
    assert data.dose_of("A").tolist() == [[1, 0, 0]], "the label of the condition of that dose"
    assert data[[0, 1, 6]].dose_of("A").tolist() == [[2, 0, 0]], "no such condition: the commonest dose"
    assert data.dose_of("A=2").tolist() == [[2, 0, 0]] and data.dose_of("B+A=7").tolist() == [[7, 0.5, 0]]
    assert data.dose_of("A+B").tolist() == data.dose_of("B+A").tolist() == [[3, 0.5, 0]]
    assert data.dose_of("control").tolist() == [[0, 0, 0]] and data.dose_of("control+C").tolist() == [[0, 0, 4]]
    assert data.dose_of("C+B").tolist() == [[0, 0.5, 4]]
    assert data[:3].dose_of("C").tolist() == [[0, 0, 1]], "a column without cells counts 1"
    for wrong, words in {
        "a": "did you mean 'A'",
        "A+Q": "'Q' in 'A+Q'",
        "A+A": "twice",
        "A=1+A": "twice",
        "A=x": "The dose in 'A=x' is 'x'; give a finite number above 0, such as 'A=0.5'",
        "A=-1": "'-1'; give a finite number",
        "Q=1": "'Q=1' in 'Q=1' is not one of",
        "": "is not one of",
    }.items():
        with pytest.raises(DataError, match=re.escape(words)):
            data.dose_of(wrong)


def test_ties_of_doses_fall_to_the_smaller_one_part_by_part():
    adata = counts(["A+B", "A+B", "B+A", "B+A", "A", "A", "control", "B"])
    adata.obs["dose"] = ["2+1", "1+3", "3+1", "1+2", "7", "5", "1", "4"]
    data = PerturbationData.from_anndata(adata, dose="dose")
    assert data.dose_of("A+B").tolist() == [[1, 3]] and data.dose_of("A").tolist() == [[5, 0]]
    other = replace(data, perturbations=("B", "A"), dose=data.dose[:, [1, 0]])
    assert other.dose_of("A+B").tolist() == [[3, 1]], "in the order of the name, whatever that of the columns"


def test_doses_of_many_conditions_look_at_all_cells_once():
    """Comparisons of labels and readings of whole columns are counted; a copy with other cells counts for itself."""
    scans = []

    class Labels(np.ndarray):
        def __eq__(self, other):
            scans.append("labels")
            return np.asarray(self) == other

    class Doses(sp.csr_matrix):
        def __getitem__(self, key):
            if isinstance(key, tuple) and self.shape[0] == len(data):
                scans.append("a column")
            return super().__getitem__(key)

        def tocsc(self, copy=False):
            scans.append("all columns")
            return super().tocsc(copy)

    names = [f"P{i:02d}" for i in range(20)]
    pairs = [f"{a}+{b}" for a, b in zip(names[:-1], names[1:], strict=True)]
    data = PerturbationData.from_anndata(counts(["control", *names, *pairs[:10]]))
    expected = np.array([[name in label.split("+") for name in names] for label in names + pairs])
    watched = replace(data, labels=np.asarray(data.labels, dtype=object).view(Labels), dose=Doses(data.dose))
    np.testing.assert_array_equal(arms(watched, names + pairs)[1], expected)
    assert len(scans) <= 2, scans
    assert watched[5:].dose_of("P00").sum() == 1 and watched[[1, 2]].dose_of("P00").tolist() == [[1.0] + [0.0] * 19]


def test_what_is_no_name_of_a_condition():
    data = PerturbationData.from_anndata(counts())
    for wrong in (("B", "A"), ["B", "A"]):
        for ask in (lambda wrong=wrong: data.dose_of(wrong), lambda wrong=wrong: arms(data, [wrong])):
            with pytest.raises(DataError, match=re.escape(f"{wrong!r} is no name") + ".* one text, such as 'B\\+A'"):
                ask()
    with pytest.raises(DataError, match="5 is no name of a condition"):
        data.dose_of(5)
    for amount in ("high", "1", None, -1, np.nan):
        with pytest.raises(DataError, match="dose of 'A' is .*; give a finite number"):
            data.dose_of({"A": amount})
    with pytest.raises(DataError, match="give a list of levels: \\['line=K562'\\]"):
        data.levels_of("line=K562")


def test_unique_encoding_has_a_column_a_condition():
    data = PerturbationData.from_anndata(counts())
    unique = data.encode_unique()
    assert unique.perturbations == ("A", "A+B", "B", "C") and unique.encode_unique() is unique
    for label, dose in zip(data.labels, unique.dose.toarray(), strict=True):
        assert dose.tolist() == [float(label == p) for p in unique.perturbations]
    assert unique.n_perturbations.tolist() == data.n_perturbations.tolist()
    assert unique.dose_of("B+A").tolist() == [[0, 1, 0, 0]]
    with pytest.raises(DataError, match="'A\\+C' in 'C\\+A' is not one of data.perturbations"):
        unique.dose_of("C+A")
    adata = counts(["A", "A", "A+B", "control"])
    adata.obs["dose"] = [0.5, 1, 2, 1]
    graded = PerturbationData.from_anndata(adata, dose="dose").encode_unique()
    assert graded.perturbations == ("A", "A=0.5", "A=2+B=2") and graded.n_treated.tolist() == [1, 1, 1]
    assert graded.dose_of("B=2+A=2").tolist() == [[0, 0, 1]] and graded.dose_of("A").tolist() == [[1, 0, 0]]


GENE_OF = {"A": "first", "B": "second", "C": "first"}
OF_CELLS = [GENE_OF.get(label.strip(" +").replace("control", "").strip("+"), "x") for label in LABELS]  # pairs: any


@pytest.mark.parametrize("form", ["column", "categories", "mapping", "series", "function"])
def test_targets_are_of_a_column_or_a_mapping_and_stay(form):
    """Those of controls and of cells with several guides do not count; every other form of the data has them too."""
    adata = counts()
    adata.obs["gene"] = pd.Categorical(OF_CELLS) if form == "categories" else OF_CELLS
    given = {"mapping": GENE_OF, "series": pd.Series(GENE_OF), "function": GENE_OF.get}.get(form, "gene")
    data = PerturbationData.from_anndata(adata, target=given)
    expected = ("first", "second", "first")
    assert data.targets == expected and data.summary().targets == expected and data.summary().rows == expected[:2]
    shown = "3 guides of 2 targets in 5 conditions, 3 cells of control"
    assert repr(data) == f"PerturbationData: 12 cells x 7 genes, {shown}"
    parts = data.split(np.array(["train", "val", "test"] * 4))
    assert all(part.targets == expected for part in (data[3:9], *parts, data.select_genes([0, 2]), data.to_memory()))
    assert data.target_of("C+A") == "first+first" and data.target_of("B+A") == "first+second"
    assert data.target_of({"A": 0.5, "B": 1}) == "first=0.5+second" and data.target_of("control") == "control"
    unique, plain = data.encode_unique(), PerturbationData.from_anndata(adata)
    assert unique.targets == plain.targets == ()
    assert {what for what, of in data.digest().items() if plain.digest()[what] != of} == {"targets"}
    with pytest.raises(DataError, match="no targets; give them to from_anndata"):
        plain.target_of("A")


def test_targets_that_say_too_little_are_refused():
    adata = counts()
    adata.obs["gene"] = [*OF_CELLS[:8], "second", *OF_CELLS[9:]]
    refused(["'C'", "'second'", "'first'", "adata.obs['gene']", "mapping"], adata, target="gene")
    adata.obs["gene"] = [*OF_CELLS[:8], None, None, *OF_CELLS[10:]]
    refused(["2 cells have no target", "'C'", "mapping"], adata, target="gene")
    adata.obs["gene"] = [None, None, *OF_CELLS[2:]]
    assert PerturbationData.from_anndata(adata, target="gene").targets == ("first", "second", "first")
    refused(["no column 'genes'", "did you mean 'gene'?"], adata, target="genes")
    refused(["2 perturbations have no target ('B', 'C')"], adata, target={"A": "first", "C": " "})
    refused(["3 perturbations have no target"], adata, target=lambda name: None)
    refused(["target is a list"], adata, target=["first", "second", "first"])
    paired = counts(["control", "A", "B+C", "A"])
    paired.obs["gene"] = ["", "first", "second", "first"]
    refused(["2 perturbations are alone in no cell", "'B', 'C'", "mapping"], paired, target="gene")
    assert PerturbationData.from_anndata(paired, target=GENE_OF).targets == ("first", "second", "first")


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
    with pytest.raises(ValueError, match="size is 0"):
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


def test_a_mask_goes_by_the_names_of_its_index():
    """A Series in another order, or of more cells or genes than there are; plain numbers 0, 1, 2, ... are no names."""
    adata = counts()
    whole = PerturbationData.from_anndata(adata)
    data = whole[3:]
    chosen = adata.obs["perturbation"] == "C"
    assert isinstance(chosen, pd.Series)
    shuffled = chosen.sample(frac=1, random_state=0)
    for mask in (chosen[3:], chosen, shuffled, shuffled.astype("boolean"), pd.Series(chosen[3:].to_numpy())):
        assert data[mask].cells.tolist() == ["c8", "c9"], mask
        np.testing.assert_array_equal(data.batch(mask).x, adata.X[8:10])
    genes = pd.Series(np.arange(7) % 3 == 0, index=adata.var_names)
    for mask in (genes, genes[::-1], genes.to_numpy()):
        assert whole.select_genes(mask).genes == ("g0", "g3", "g6")
    assert whole.select_genes([0, 3, 2]).select_genes(genes).genes == ("g0", "g3")
    for wrong, message in (
        (chosen[4:], "lacks 'c3'"),
        (pd.Series(chosen.to_numpy(), index=[f"cell{i}" for i in range(12)]), "lacks 'c3'"),
        (pd.concat([chosen, chosen[:1]]), "has a name twice"),
        (pd.Series(chosen.to_numpy()), "lacks 'c3'"),
    ):
        with pytest.raises(DataError, match=f"index of a Series for 9 cells {message}; index it by the names"):
            data[wrong]
    with pytest.raises(DataError, match="Series for 7 genes lacks 'g0'"):
        whole.select_genes(genes[1:])


def test_what_may_be_read_in_two_ways_is_refused():
    """A mask of numbers, which would be positions; two axes at once, of which the second would be cells."""
    data = PerturbationData.from_anndata(counts())
    for mask in (np.arange(12) % 2, (np.arange(12) % 2).astype(np.uint8), [1, 0] * 6, pd.Series([0, 1] * 6)):
        with pytest.raises(DataError, match="0 or 1 each.*give values == 1"):
            data[mask]
    with pytest.raises(DataError, match="0 or 1 each"):
        data.select_genes(np.array([1, 0, 0, 1, 0, 1, 1]))
    for key in ((5, 3), (slice(None), [0, 1])):
        with pytest.raises(DataError, match="one list, mask or slice of cells; data.select_genes"):
            data[key]
    with pytest.raises(DataError, match="by positions, a mask or a slice"):
        data[np.array([[0, 1], [2, 3]])]


def test_genes_are_selected_by_name():
    adata = counts()
    data = PerturbationData.from_anndata(adata)
    for names in (["g4", "g0"], np.array(["g4", "g0"]), pd.Index(["g4", "g0"]), pd.Series(["g4", "g0"])):
        few = data.select_genes(names)
        assert few.genes == ("g4", "g0")
        np.testing.assert_array_equal(few.batch().x, adata.X[:, [4, 0]])
    assert data.select_genes("g0").genes == ("g0",)
    with pytest.raises(DataError, match="2 of the genes are not in the data \\('G4', 'x'\\); did you mean 'g4'"):
        data.select_genes(["g0", "G4", "x"])
    for twice in ([0, 3, 0], ["g0", "g3", "g0"], [0, 3, -7]):
        with pytest.raises(DataError, match="selected more than once"):
            data.select_genes(twice)


def test_select_genes_refuses_to_leave_empty_cells():
    data = PerturbationData.from_anndata(counts())
    with pytest.raises(DataError, match="12 cells of 12 have no counts on the 1 selected genes"):
        data.select_genes([1])


@pytest.mark.parametrize("dense", [False, True])
def test_summary_is_that_of_numpy_in_double_precision(dense, monkeypatch):
    monkeypatch.setattr("samslib.data.statistics.BLOCK", 21)  # three rows a block
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


def test_words_of_a_split_go_by_the_names_of_their_index():
    adata = counts(["control", "A", "B", "C"] * 3)
    data = PerturbationData.from_anndata(adata)
    words = np.array(["train"] * 5 + ["val"] * 3 + ["test"] * 4)
    adata.obs["split"] = pd.Categorical(words)
    shuffled = adata.obs["split"].sample(frac=1, random_state=0)
    for given in (words, list(words), adata.obs["split"], shuffled, lambda d: shuffled, pd.Series(words)):
        parts = data.split(given)
        assert [part.cells.tolist() for part in parts] == [
            [f"c{i}" for i in at] for at in (range(5), range(5, 8), range(8, 12))
        ]
        held = reference_cells(data, "test", given, "train")
        assert held.cells.tolist() == ["c0", "c4", "c9", "c10", "c11"]
    assert data[1:].split(shuffled)[0].cells.tolist() == ["c1", "c2", "c3", "c4"]
    with pytest.raises(DataError, match="lacks 'c0'"):
        data.split(adata.obs["split"][1:])
    for wrong in ("random", 0.8, None, splits):
        with pytest.raises(DataError, match="1 labels for 12 cells; .* a splitter such as samslib.splits.random"):
            data.split(wrong)


def test_an_anndata_in_place_of_the_data_and_the_reverse():
    adata = counts()
    data = PerturbationData.from_anndata(adata)
    refused(["from_anndata needs an AnnData, not a PerturbationData"], data)
    refused(["not a str", "anndata.read_h5ad"], "cells.h5ad")
    for wrong in (lambda: data.summary(adata), lambda: splits.random()(adata), lambda: splits.combinations(0.5)(adata)):
        with pytest.raises(DataError, match="needs a PerturbationData, not .*AnnData; .*from_anndata"):
            wrong()


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
    refused(["no column ['perturbation']"], adata, perturbation=["perturbation"])
    adata.obs = pd.concat([adata.obs, adata.obs.iloc[:, :1]], axis=1)
    refused(["adata.obs has 2 columns named 'perturbation'", "rename or drop"], adata)
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


@pytest.mark.parametrize("nothing", ["", " ", "nan", "NaN", "none", "None", "<NA>", "NA", "n/a", np.nan, None, pd.NA])
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
    monkeypatch.setattr("samslib.data.statistics.BLOCK", 14)
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
    adata = counts()
    adata.var.index = pd.Index([1, "1", *adata.var_names[2:]], dtype=object)
    refused(["1 gene name(s) occur more than once ('1')", "adata.var_names.astype(str)"], adata)
    adata.var_names = adata.var_names.astype(str)  # the remedy works
    adata.var_names_make_unique()
    assert PerturbationData.from_anndata(adata).genes[:3] == ("1", "1-1", "g2")
    refused(["12 cells x 0 genes; 2 x 1 are the least"], counts()[:, []])
    refused(["has 1 cell x 7 genes; 2 x 1"], counts()[:1])
    adata = counts()
    adata.X = None
    refused(["adata.X is empty", "layer="], adata)


@pytest.mark.parametrize(
    "dose, words",
    [
        ("1+1+1", ["'1+1+1'", "'B+A'", "each of 2 part(s)"]),
        ("1", ["each of 2 part(s)"]),
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


def test_a_dose_too_few_beside_a_control_is_refused():
    adata = counts(["control", "A", "control+B", "B"])
    adata.obs["dose"] = ["1", "1", "2", "1"]
    refused(["'control+B'", "each of 2 part(s)"], adata, dose="dose")


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

    adata.obs["a=b"], adata.obs["good"] = "x", [1, 1, 0] * 4
    refused(["'a=b' has a '=' in its name"], adata, covariates="a=b")
    refused(["covariate 'flag' is given twice"], adata, covariates=["flag", "flag"])
    refused(["quality flag 'good' is given twice"], adata, quality=["good", "good"])
    for missing in ("", " ", "nan", "NA", "<NA>"):
        adata.obs["batch"] = ["x", missing] * 6
        refused(["covariate adata.obs['batch'] is missing in 6 cells"], adata, covariates="batch")


def test_a_flag_that_most_cells_carry_is_doubted(warned):
    adata = counts(["control", "A", "B"])
    adata.obs["passes"], adata.obs["fails"] = [1, 0, 1], [0, 1, 0]
    assert warned(adata, quality="passes")[1] == [
        "The quality flag 'passes' is 1 in 67% of cells; 1 marks a cell of poor quality"
    ]
    assert not warned(adata, quality=["fails"])[1]


def test_columns_with_too_many_levels_are_refused(monkeypatch):
    """Before a matrix of cells x levels is made, and of levels x levels never."""
    labels = ["control", "A", "B", "C"] * 600
    adata = counts(labels)
    n = len(labels)
    adata.obs["umis"], adata.obs["barcode"] = np.arange(n) + 1000, [f"b{i // 2}" for i in range(n)]
    adata.obs["depth"], adata.obs["donor"] = np.arange(n) % 300, [f"donor {i % 900}" for i in range(n)]
    monkeypatch.setattr(np, "eye", lambda *_, **__: pytest.fail("a square of levels"))
    assert len(PerturbationData.from_anndata(adata, covariates="donor").covariates) == 900
    refused(["adata.obs['umis'] has 2400 levels in 2400 cells", "pd.cut"], adata, covariates="umis")
    refused(["adata.obs['barcode'] has 1200 levels", "few levels"], adata, covariates="barcode")
    refused(["adata.obs['depth'] has 300 levels", "pd.cut"], adata, covariates=["donor", "depth"])
    refused(["adata.obs['depth'] has 300 levels"], adata[:500], covariates="depth")
    adata.obs["day"], adata.obs["sample"] = np.arange(n) % 240, pd.Categorical(np.arange(n) % 200)
    data = PerturbationData.from_anndata(adata, covariates=["day", "sample"])
    assert (
        data.covariate.shape == (n, 440) and (data.covariate.sum(1) == 2).all() and data.covariate.dtype == np.float32
    )
    assert data.covariates[:3] == ("day=0", "day=1", "day=10")
    assert (data.covariate[:, data.covariates.index("day=17")] == (np.arange(n) % 240 == 17)).all()
    few = counts()
    few.obs["day"] = np.arange(12)
    assert len(PerturbationData.from_anndata(few, covariates="day").covariates) == 12


@pytest.mark.parametrize("dtype", [object, "category"])
def test_labels_of_several_types_and_with_blanks(dtype, warned):
    """Types and blanks make no two conditions or levels of one."""
    adata = counts(["control"] * 6)
    adata.obs["perturbation"] = pd.Series(["control", b"control", "A ", b"A", "A", " A\t"], dtype=object).to_numpy()
    adata.obs["line"] = pd.Series([1, 1.0, "1", "1 ", "2", np.float64(2)], dtype=object).to_numpy()
    if dtype == "category":
        adata.obs = adata.obs.astype("category")
        adata.obs["line"] = adata.obs["line"].cat.add_categories(["3"])
    data, said = warned(adata, covariates="line")
    assert data.labels.tolist() == ["control"] * 2 + ["A"] * 4 and data.perturbations == ("A",)
    assert data.covariates == ("line=1", "line=2") and data.covariate[:, 0].tolist() == [1, 1, 1, 1, 0, 0]
    assert "1 levels of adata.obs['line'] differ from others only in blanks and are the same" in said
    adata.obs["perturbation"] = pd.Series([0, 0.0, "0", 1, 1.0, "1"], dtype=object).to_numpy()
    assert PerturbationData.from_anndata(adata, control=0).labels.tolist() == ["0"] * 3 + ["1"] * 3
    adata.obs["perturbation"] = [0.0, 0.0, 0.0, 1.0, 2.0, 2.5]
    assert PerturbationData.from_anndata(adata, control="0.0").perturbations == ("1.0", "2.0", "2.5")


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


def test_targets_are_one_a_perturbation():
    with pytest.raises(DataError, match="There are 2 targets of 3 perturbations"):
        replace(make_data(), targets=("x", "y")).summary()
