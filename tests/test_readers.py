"""Readers, each on a small file of exactly the published schema, written here."""

import hashlib
import json
import logging
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import rdata
import scipy.sparse as sp
from rdata.conversion import to_r
from rdata.parser import RObjectType

from samslib.data.container import PerturbationData
from samslib.datasets import readers
from samslib.datasets.readers import DatasetError
from samslib.datasets.registry import SOURCES

TARGETS = ["SNRPD3", "MED10", "EXOSC1", "RPL4"]
PATHWAYS = {"EXOSOME": ["EXOSC1"], "SPLICEOSOME": ["SNRPD3", "SNRPD3"]}
GENES = ["G1", "G3", "G4"]
GUIDES = "CCNE2_+_95907328.23-P1P2 CCNE2_-_95907017.23-P1P2 GATA1-A non-targeting_00000 non-targeting_00001".split()
GUIDES = [f"CROPseq_dCas9_DS_{guide}" for guide in GUIDES]


def counts(cells, genes, seed=0):
    return np.random.default_rng(seed).poisson(3, (cells, genes)).astype(np.float32)


def write(path, x, obs, var=None, **parts):
    """An h5ad of a dense or sparse X."""
    obs = pd.DataFrame(obs, index=[f"cell{i}" for i in range(x.shape[0])])
    var = pd.DataFrame(var or {}, index=[f"G{g}" for g in range(x.shape[1])])
    ad.AnnData(x, obs=obs, var=var, **parts).write_h5ad(path)
    return path


def norman_file(path, scale=1):
    """The processed file: log values in X, counts in a layer, a 0/1 column a guide; one pair in two spellings."""
    identity = ["NegCtrl0_NegCtrl0__x", "KLF1_MAP2K6__x", "KLF1_MAP2K6__x_2", "KLF1_NegCtrl0__x"] * scale
    on = np.array([[0, 0], [1, 1], [1, 1], [1, 0]] * scale)
    x = counts(len(identity), 6)
    obs = {"guide_identity": identity, "guide_ids": ["", "KLF1,MAP2K6", "KLF1,MAP2K6", "KLF1"] * scale, "n_genes": 3}
    obs |= {"guide_KLF1": on[:, 0], "guide_MAP2K6": on[:, 1]}
    layers = {"counts": sp.csr_matrix(x), "other": x}
    return write(path, np.log1p(x), obs, {"highly_variable": [True, False] * 3}, layers=layers, uns={"hvg": {}})


def scperturb_file(path, perturbation, cells=1, **columns):
    """A file of the collection: raw counts, harmonised columns."""
    names = [name for name in perturbation for _ in range(cells)]
    each = {k: [value for value in v for _ in range(cells)] for k, v in columns.items()}
    obs = {"perturbation": names, "ncounts": 9.0, "organism": "human", **each}
    return write(path, sp.csr_matrix(counts(len(names), 5)), obs)


def replogle_obs(target):
    pair = np.where(target == "non-targeting", "non-targeting_00001|non-targeting_00002", "")
    pair = np.where(pair == "", np.char.add(target, "_+_1.23-P1P2|x_-_2.23-P1P2"), pair)
    return {"gene": target, "sgID_AB": pair, "gem_group": 1, "UMI_count": 5.0}


def replogle_file(path):
    """The prepared mirror: the choice is made, pathways are in uns."""
    target = np.array(["SNRPD3", "non-targeting", "EXOSC1", "MED10"])
    lists = {k: np.array(v, dtype=object) for k, v in PATHWAYS.items()}
    return write(path, counts(4, 3), replogle_obs(target), {"gene_name": GENES}, uns={"pathways": lists})


def replogle_raw_file(path, cells=300):
    """The genome-wide file: dense float32, more targets and genes than are chosen, one symbol twice."""
    target = np.random.default_rng(1).choice([*TARGETS, "OTHER", "non-targeting"], cells)
    return write(path, counts(cells, 6), replogle_obs(target), {"gene_name": ["G0", "G1", "G2", "G3", "G4", "G1"]})


def tapseq_files(path):
    """Counts as a table, and beside it the guides: cells of none, of one each, then of two."""
    umis = [[4, 0, 0, 4, 0], [5, 4, 0, 0, 0], [0, 0, 9, 0, 0], [0, 0, 0, 7, 0]]
    umis += [[0, 0, 0, 7, 6], [5, 5, 0, 0, 0], [0, 0, 9, 5, 0], [6, 0, 8, 0, 0]]
    cells = [f"TAP{1 + (i > 5)}-AAAC{i}" for i in range(8)]
    pd.DataFrame(counts(8, 3).astype(int), pd.Index(cells, name="gene"), ["CCNE2", "GATA1", "MYC"]).to_csv(path)
    obs, var = pd.DataFrame({"batch": 1}, cells), pd.DataFrame(index=pd.Index(GUIDES, name="gRNA"))
    ad.AnnData(sp.csr_matrix(np.array(umis)), obs=obs, var=var).write_h5ad(path.with_name("tapseq-guides.h5ad"))
    return path, path.with_name("tapseq-guides.h5ad")


def r_class(name, **slots):
    return SimpleNamespace(**slots, **{"class": name})


def glioblastoma_file(path):
    """An experiment as R saves it, of two patients, each with and without the drug."""
    x = sp.csc_matrix(counts(4, 3).T)
    slots = {"i": x.indices, "p": x.indptr, "Dim": np.array(x.shape, np.int32), "x": x.data.astype(float)}
    cells = {"patient_id": np.array(["P1", "P1", "P2", "P2"]), "age": np.array([65.0, 65.0, 56.0, 56.0])}
    cells |= {"gender": np.array(["M", "M", "F", "F"]), "location": np.array(["left", "left", "right", "right"])}
    cells |= {"condition": np.array(["ctrl", "panobinostat"] * 2), "id": np.array(["AA", "AC", "AG", "AT"])}
    genes = {"gene_id": np.array(["E1", "E2", "E3"]), "symbol": np.array(["MT2A", "FTL", "SPP1"])}
    listed = r_class("SimpleList", listData={"counts": r_class("dgCMatrix", **slots)})
    ranges = r_class("CompressedGRangesList", elementMetadata=r_class("DFrame", listData=genes))
    tables = {"assays": r_class("SimpleAssays", data=listed), "colData": r_class("DFrame", listData=cells)}
    whole = {"glioblastoma_example_data": r_class("SingleCellExperiment", rowRanges=ranges, **tables)}

    def by_slots(value, converter):
        attributes = converter.convert_to_r_attributes(vars(value))
        return to_r.build_r_object(RObjectType.VEC, value=[], is_object=True, attributes=attributes)

    rdata.write_rda(path, whole, constructor_dict={**to_r.DEFAULT_CLASS_MAP, SimpleNamespace: by_slots})
    return path


def lists_file(path):
    """The notebook with the lists: texts as pasted from a table, pathways as Python lists, a cell of magics."""
    code = [
        "%load_ext autoreload\n%autoreload 2",
        f'# pasted\nstring = """{TARGETS[0]},{TARGETS[1]}\n{TARGETS[2]},{TARGETS[3]},{TARGETS[0]}"""',
        f'string_genes = """{",".join(GENES[:2])}\n{GENES[2]}"""',
        "\n".join(f"{name} = {genes!r}" for name, genes in PATHWAYS.items()),
        "raise RuntimeError('a notebook is parsed, never run')",
    ]
    cells = [{"cell_type": "code", "source": text.splitlines(True)} for text in code]
    path.write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": ["text"]}, *cells]}))
    return path


@pytest.fixture
def sums(monkeypatch):
    """The sums of the small lists in place of the published ones."""
    monkeypatch.setattr(readers, "TARGETS", readers.fingerprint(TARGETS))
    monkeypatch.setattr(readers, "GENES", readers.fingerprint(GENES))
    monkeypatch.setattr(readers, "PATHWAYS", {k: readers.fingerprint(v)[:16] for k, v in PATHWAYS.items()})


def read(name, *paths):
    """What the reader gives, and what from_anndata makes of it with the arguments that are told to users."""
    adata = SOURCES[name].read(*paths)
    data = PerturbationData.from_anndata(adata, **SOURCES[name].arguments)
    assert adata.X.dtype == np.float32 and sp.issparse(adata.X) and adata.X.format == "csr"
    return adata, data


def test_norman_has_counts_names_from_columns_and_the_published_names_to_split_by(tmp_path):
    adata, data = read("norman", norman_file(tmp_path / "norman.h5ad"))
    assert list(adata.obs["perturbation"]) == ["control", "KLF1+MAP2K6", "KLF1+MAP2K6", "KLF1"]
    np.testing.assert_array_equal(adata.X.toarray(), counts(4, 6))
    assert not adata.layers and adata.obs["guide_identity"].nunique() == 4
    assert list(data.n_perturbations) == [0, 2, 2, 1] and list(adata.var["highly_variable"]) == [True, False] * 3


def test_guide_columns_hold_only_0_and_1(tmp_path):
    path = norman_file(tmp_path / "norman.h5ad")
    adata = ad.read_h5ad(path)
    adata.obs["guide_KLF1"] = [0, 1, 2, 1]
    adata.write_h5ad(path)
    with pytest.raises(DatasetError, match=r"other values than 0 and 1 in the column obs\['guide_KLF1'\]"):
        readers.norman(path)
    adata.obs = adata.obs[["guide_identity"]]
    adata.write_h5ad(path)
    with pytest.raises(DatasetError, match="no column of obs that says 0 or 1"):
        readers.norman(path)


def test_norman_of_scperturb(tmp_path):
    path = scperturb_file(tmp_path / "n.h5ad", ["control", "KLF1", "KLF1_MAP2K6"])
    adata, data = read("norman-scperturb", path)
    assert list(adata.obs["perturbation"]) == ["control", "KLF1", "KLF1+MAP2K6"] and list(data.n_perturbations) == [
        0,
        1,
        2,
    ]


def test_dixit_names_cells_by_columns_of_genes_and_drops_more_than_two(tmp_path, caplog):
    on = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    obs = dict(zip(["EGR1", "ELK1", "YY1"], on.T, strict=True)) | {
        "INTERGENIC1144056": [1, 0, 0, 0],
        "p_sgEGR1_3": [0, 1, 1, 1],
        "combined_guides": ["a", "b", "c", "d"],
        "moi": ["low"] * 4,
        "ncounts": [5, 6, 7, 8],
        "lane": 1,
    }
    with caplog.at_level(logging.WARNING):
        adata, _ = read("dixit", write(tmp_path / "d.h5ad", counts(4, 5), obs))
    assert list(adata.obs["perturbation"]) == ["control", "EGR1", "EGR1+ELK1"]
    assert "1 of 4 cells dropped: more than two guides" in caplog.text
    with pytest.raises(DatasetError, match="no column of obs"):
        readers.dixit(write(tmp_path / "none.h5ad", counts(2, 5), {"ncounts": [5, 6]}))


def test_adamson_merges_modified_guides_into_controls(tmp_path, caplog):
    names = ["SPI1_pDS255", "62(mod)_pBA581", "*", "SPI1_pDS256", None]
    path = scperturb_file(tmp_path / "a.h5ad", names, cells=8)
    adata = ad.read_h5ad(path)
    adata.obs.loc["cell0", "organism"] = np.nan
    x = np.ones((40, 5), np.float32)
    x[12:, 1] = 0  # seen in 11 of the cells that are kept
    adata.X = sp.csr_matrix(x)
    adata.write_h5ad(path)
    with caplog.at_level(logging.WARNING):
        adata, _ = read("adamson", path)
    assert adata.obs["perturbation"].value_counts().to_dict() == {"SPI1": 15, "control": 8}
    assert list(adata.var_names) == ["G0", "G2", "G3", "G4"] and "17 of 40 cells dropped" in caplog.text


@pytest.mark.parametrize("name", ["sciplex2", "sciplex3"])
def test_sciplex_doses_are_shares_of_each_drugs_highest(tmp_path, caplog, name):
    columns = {
        "dose_value": [10.0, 1000.0, 0.0, 5.0, 50.0, np.nan, np.nan, 1.0],
        "cell_line": ["A549", "A549", "A549", "MCF7", "MCF7", "MCF7", "A549", None],
    }
    drugs = ["(+)-JQ1", "(+)-JQ1", "(+)-JQ1", "SAHA", "SAHA", "control", "SAHA", "SAHA"]
    with caplog.at_level(logging.WARNING):
        adata, data = read(name, scperturb_file(tmp_path / "s.h5ad", drugs, **columns))
    assert list(adata.obs["perturbation"]) == ["(+)-JQ1", "(+)-JQ1", "control", "SAHA", "SAHA", "control"]
    np.testing.assert_allclose(adata.obs["dose"], [0.01, 1, 1, 0.1, 1, 1])
    np.testing.assert_allclose(data.dose.toarray(), [[0.01, 0], [1, 0], [0, 0], [0, 0.1], [0, 1], [0, 0]], rtol=1e-6)
    assert data.covariates == ("cell_line=A549", "cell_line=MCF7")
    assert "no drug or no cell line" in caplog.text and "no dose known" in caplog.text


def test_kang(tmp_path):
    obs = {"label": ["ctrl", "stim", "stim"], "cell_type": ["B", "B", "NK"], "replicate": "p1"}
    adata, data = read("kang", write(tmp_path / "k.h5ad", counts(3, 5), obs, {"name": list("abcde")}))
    assert list(adata.obs["perturbation"]) == ["control", "stim", "stim"]
    assert data.covariates == ("cell_type=B", "cell_type=NK")


def test_tapseq_names_cells_by_the_one_guide_that_they_have(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        adata, data = read("tapseq", *tapseq_files(tmp_path / "tapseq-counts.csv"))
    assert list(adata.obs["perturbation"]) == [GUIDES[0], GUIDES[2], "control"]
    assert list(adata.obs["target"]) == ["CCNE2", "GATA1", "control"]
    assert list(adata.obs["guide"]) == [GUIDES[0], GUIDES[2], GUIDES[3]]
    assert list(adata.obs["guide_umis"]) == [9, 9, 7] and list(adata.obs["n_guides"]) == [1, 1, 1]
    np.testing.assert_array_equal(adata.X.toarray(), counts(8, 3)[1:4])
    assert list(adata.var_names) == ["CCNE2", "GATA1", "MYC"] and list(data.n_perturbations) == [1, 1, 0]
    assert adata.uns["guide_calls"] == {"umis": 5, "none": 1, "one": 3, "several": 4}
    said = [record.getMessage() for record in caplog.records]
    assert said == ["1 of 8 cells dropped: no guide with 5 UMIs", "4 of 7 cells dropped: several guides"]


def test_tapseq_keeps_multiplets_when_asked(tmp_path):
    adata, data = read("tapseq-multiplets", *tapseq_files(tmp_path / "tapseq-counts.csv"))
    both = ["control", "|".join(GUIDES[:2]), GUIDES[2], f"{GUIDES[0]}|{GUIDES[2]}"]
    assert list(adata.obs["perturbation"][3:]) == both and list(data.n_perturbations) == [1, 1, 0, 0, 2, 1, 2]
    assert list(adata.obs["target"][3:]) == ["control", "CCNE2", "GATA1", "CCNE2|GATA1"]
    assert adata.obs["guide"].iloc[5] == "|".join(GUIDES[2:4]) and list(adata.obs["n_guides"][3:]) == [2] * 4
    assert list(adata.obs["batch"]) == ["TAP1"] * 5 + ["TAP2"] * 2


def test_tapseq_of_other_cells_is_refused(tmp_path):
    table, guides = tapseq_files(tmp_path / "tapseq-counts.csv")
    pd.read_csv(table, index_col=0)[::-1].to_csv(table)
    with pytest.raises(DatasetError, match="has not the cells of tapseq-guides.h5ad in their order"):
        SOURCES["tapseq"].read(table, guides)


def test_glioblastoma_is_read_without_r(tmp_path, monkeypatch):
    path = glioblastoma_file(tmp_path / "g.rda")
    adata, data = read("glioblastoma", path)
    assert list(adata.obs["perturbation"]) == ["control", "panobinostat"] * 2
    assert data.covariates == ("patient=P1", "patient=P2") and list(adata.obs_names) == ["AA", "AC", "AG", "AT"]
    assert list(adata.obs["location"]) == ["left", "left", "right", "right"] and list(adata.obs["age"]) == [
        65,
        65,
        56,
        56,
    ]
    assert list(adata.var_names) == ["MT2A", "FTL", "SPP1"] and list(adata.var["gene_id"]) == ["E1", "E2", "E3"]
    np.testing.assert_array_equal(adata.X.toarray(), counts(4, 3))
    monkeypatch.setattr(readers, "find_spec", {"rdata": None}.get)
    with pytest.raises(DatasetError, match="for which rdata is needed: `pip install rdata`"):
        SOURCES["glioblastoma"].read(path)


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_names_that_occur_twice_get_a_number_and_a_word(tmp_path, caplog):
    adata = ad.AnnData(counts(2, 2), obs=pd.DataFrame({"perturbation": ["control", "A"]}, index=["c", "c"]))
    adata.var_names = ["G", "G"]
    adata.write_h5ad(tmp_path / "n.h5ad")
    with caplog.at_level(logging.WARNING):
        adata, _ = read("norman-scperturb", tmp_path / "n.h5ad")
    assert list(adata.var_names) == ["G", "G-1"] and caplog.text.count("1 names of") == 2


def test_replogle_has_guide_pairs_and_pathways(tmp_path, sums):
    adata, data = read("replogle", replogle_file(tmp_path / "r.h5ad"))
    assert data.perturbations == tuple(f"{g}_+_1.23-P1P2|x_-_2.23-P1P2" for g in ("EXOSC1", "MED10", "SNRPD3"))
    assert list(data.n_perturbations) == [1, 0, 1, 1]
    assert list(adata.obs["pathway"]) == ["SPLICEOSOME", "none", "EXOSOME", "none"]
    assert {k: set(v) for k, v in adata.uns["pathways"].items()} == {k: set(v) for k, v in PATHWAYS.items()}


def test_replogle_with_other_pathways_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"not the published list of genes in uns\['pathways'\]\['EXOSOME'\]"):
        readers.replogle(replogle_file(tmp_path / "r.h5ad"))


@pytest.mark.parametrize("sparse", [False, True])
def test_replogle_raw_is_filtered_in_blocks_as_published(tmp_path, sums, monkeypatch, sparse):
    path, notebook = replogle_raw_file(tmp_path / "raw.h5ad"), lists_file(tmp_path / "lists.ipynb")
    raw = ad.read_h5ad(path)
    if sparse:
        ad.AnnData(sp.csr_matrix(raw.X), obs=raw.obs, var=raw.var).write_h5ad(path)
    longest = []
    if not sparse:
        whole = h5py.Dataset.__getitem__

        def watched(self, rows, *more):
            found = whole(self, rows, *more)
            longest.append(len(found) if self.name == "/X" else 0)
            return found

        monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    monkeypatch.setattr(readers, "BLOCK", 6 * 37)
    monkeypatch.setattr(readers, "CONTROLS_KEPT", 20)
    adata, data = read("replogle-raw", path, notebook)
    assert sparse or max(longest) == 37, "the matrix is never read whole"

    controls = np.flatnonzero(raw.obs["gene"] == "non-targeting")  # the published draw, apart from the reader
    np.random.seed(0)
    np.random.shuffle(controls)
    keep = raw.obs["gene"].isin(TARGETS).to_numpy()
    keep[controls[:20]] = True
    expected = raw[keep, raw.var["gene_name"].isin(GENES)]
    assert expected.n_vars == 4 and (data.n_perturbations == 0).sum() == 20, "one symbol stands for two rows"
    np.testing.assert_array_equal(adata.X.toarray(), expected.X)
    assert list(adata.obs_names) == list(expected.obs_names) and list(adata.var_names) == list(expected.var_names)
    assert set(adata.obs["pathway"]) == {"none", "EXOSOME", "SPLICEOSOME"}


def test_lists_are_known_by_their_sums(tmp_path, sums, monkeypatch):
    notebook = lists_file(tmp_path / "lists.ipynb")
    targets, genes, pathways = readers.published_lists(notebook)
    assert (set(targets), set(genes)) == (set(TARGETS), set(GENES))
    assert pathways == {"EXOSOME": ["EXOSC1"], "SPLICEOSOME": ["SNRPD3"]}
    notebook.write_text(notebook.read_text().replace("MED10", "MED11"))
    with pytest.raises(DatasetError, match="no list of targets with the published sum"):
        readers.published_lists(notebook)
    notebook.write_text("<html>")
    with pytest.raises(DatasetError, match="is no notebook"):
        readers.published_lists(notebook)


def test_a_list_that_says_the_same_has_the_same_sum():
    assert readers.fingerprint(["B", "A", "B"]) == readers.fingerprint("AB") == hashlib.sha256(b"A\nB").hexdigest()
    assert readers.fingerprint("AC") != readers.fingerprint("AB")
