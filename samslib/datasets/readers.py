"""From published files of perturbed cells to AnnData with raw counts in X and names in obs["perturbation"].

Each reader knows one schema, or one way to write names, in the terms of the published experiments; the page on data
sets has them in words. What a reader finds wrong it says as a predicate of the file ("has no column ..."), for
`samslib.datasets` to complete.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import re
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData, read_h5ad
from anndata.io import read_elem

from samslib.data.statistics import BLOCK
from samslib.progress import Progress
from samslib.validation import DataError, require

LOG = logging.getLogger("samslib")

REGISTRY = tomllib.loads(Path(__file__).with_name("registry.toml").read_text(encoding="utf-8"))

TARGETS, GENES, PATHWAYS = (REGISTRY["lists"][name] for name in ("targets", "genes", "pathways"))  # their sums

CONTROLS_KEPT = 2000  # of the genome-wide screen's 75,328 non-targeting cells

TAPSEQ_TARGET = r"_DS_([A-Z0-9]+)(?:_[+-]_|-[A-D]$)"  # CCNE2 by strand and position, GATA1-A by its enhancer


class DatasetError(DataError):
    """A data set cannot be had; the message says which file is missing or wrong and what to do."""


def fingerprint(names: Iterable[str]) -> str:
    """The checksum of a list of names: the same for lists that say the same.

    Parameters
    ----------
    names
        The names; order and repetition do not matter.

    Returns
    -------
    str
        sha256 in hexadecimal digits of the distinct names, sorted and joined by newlines.
    """
    return hashlib.sha256("\n".join(sorted(set(names))).encode()).hexdigest()


def _table(path: Path, matrix: str = "X", dtype: type = np.float32) -> AnnData:
    """Cells with one matrix as CSR; other layers, embeddings and notes stay in the file."""
    with h5py.File(path) as file:
        x, obs, var = (read_elem(file[part]) for part in (matrix, "obs", "var"))
    adata = AnnData(sp.csr_matrix(x, dtype=dtype), obs=obs, var=var)
    for axis, names in (("genes", adata.var_names), ("cells", adata.obs_names)):
        if twice := int(names.duplicated().sum()):
            LOG.warning("%s: %d names of %s occur again and got a number", path.name, twice, axis)
    adata.var_names_make_unique()
    adata.obs_names_make_unique()
    return adata


def _keep(adata: AnnData, keep: Any, why: str) -> AnnData:
    """The chosen cells; how many were dropped is said."""
    if dropped := int((~np.asarray(keep)).sum()):
        LOG.warning("%d of %d cells dropped: %s", dropped, adata.n_obs, why)
    return adata[np.asarray(keep)].copy()


def _name(adata: AnnData, names: Any) -> AnnData:
    adata.obs["perturbation"] = pd.Categorical(np.asarray(names, dtype=str))
    return adata


def _name_by_columns(adata: AnnData, columns: Mapping[str, str]) -> AnnData:
    """Names from 0/1 columns of obs, each with the name it stands for: "A+B", or "control" where all are 0."""
    require(columns, "has no column of obs that says 0 or 1 for a perturbation", DatasetError)
    on = adata.obs[list(columns)].astype(float)
    for name, valid in on.isin([0, 1]).all().items():
        require(valid, f"has other values than 0 and 1 in the column obs[{name!r}] of a perturbation", DatasetError)
    return _name(adata, _join(on.astype(bool).rename(columns=columns), "+"))


def _join(on: pd.DataFrame, separator: str) -> pd.Series:
    """The columns that are true in each row, in one name; "control" where none is."""
    return on.dot(on.columns + separator).str.removesuffix(separator).replace("", "control")


def norman(path: Path) -> AnnData:
    """Norman et al. as processed in the sc-pert collection: counts from their layer, names from 0/1 guide columns.

    Parameters
    ----------
    path
        The published file, HDF5.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation".
        var["highly_variable"] marks the genes of the SAMS-VAE paper, obs["guide_identity"] the names its splits go by.

    Raises
    ------
    DatasetError
        For guide columns that hold anything but 0 and 1.
    """
    adata = _table(path, "layers/counts")
    guides = [c for c in adata.obs if "guide_" in c and c not in ("guide_identity", "guide_ids")]
    return _name_by_columns(adata, {c: c.split("guide_", 1)[1] for c in guides})


def renamed(path: Path, column: str, old: str, new: str) -> AnnData:
    """Names from a column of obs with a part of them replaced, such as "_" by "+".

    Parameters
    ----------
    path
        The published file, HDF5.
    column
        Of obs, with the names.
    old, new
        What is replaced, wherever it stands, and by what.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation".
    """
    adata = _table(path)
    return _name(adata, adata.obs[column].astype(str).str.replace(old, new))


def dixit(path: Path) -> AnnData:
    """Dixit et al. as in CRADLE-VAE: names from 0/1 columns of genes, cells of more than two left out.

    A column of a gene is one of 0 and 1, not 1 throughout, whose name holds neither "_" nor "INTERGENIC", the control
    guides.

    Parameters
    ----------
    path
        The published file, HDF5.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation".

    Raises
    ------
    DatasetError
        If there is no column of a gene.
    """
    adata = _table(path)
    numbers = adata.obs.select_dtypes(["number", "bool"])
    genes = [c for c in numbers if "_" not in c and "INTERGENIC" not in c]
    genes = [c for c in genes if numbers[c].isin([0, 1]).all() and not numbers[c].all()]
    adata = _keep(adata, adata.obs[genes].sum(axis=1) <= 2, "more than two guides")
    return _name_by_columns(adata, {c: c for c in genes})


def adamson(path: Path) -> AnnData:
    """Adamson et al. by scPerturb, as in CRADLE-VAE: names up to the first "_", guides with "(mod)" are controls.

    Cells of the guide "*" or with anything missing are left out, then genes that are seen in fewer than 20 cells.

    Parameters
    ----------
    path
        The published file, HDF5.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation".
    """
    adata = _table(path)
    known = ~adata.obs.isna().any(axis=1) & (adata.obs["perturbation"].astype(str) != "*")
    adata = _keep(adata, known, "guide or another column unknown")
    guide = adata.obs["perturbation"].astype(str)
    adata = _name(adata, guide.str.split("_").str[0].where(~guide.str.contains("(mod)", regex=False), "control"))
    return adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 20].copy()


def sciplex(path: Path) -> AnnData:
    """sci-Plex by scPerturb: a dose of 0 is a control; obs["dose"] is the share of the drug's highest dose, as in CPA.

    Cells without a drug, a cell line or, unless they are controls, a dose are left out.

    Parameters
    ----------
    path
        The published file, HDF5.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation" and "dose", 1 for controls.
    """
    adata = _table(path)
    known = adata.obs[["perturbation", "cell_line"]].notna().all(axis=1)
    adata = _keep(adata, known & (adata.obs["perturbation"].astype(str) != "nan"), "no drug or no cell line known")
    amount = pd.to_numeric(adata.obs["dose_value"].astype(object), errors="coerce")
    drug = adata.obs["perturbation"].astype(str).where(amount != 0, "control")
    amount = amount.where(drug != "control", 1.0)
    adata.obs["dose"] = amount / amount.groupby(drug).transform("max")
    return _keep(_name(adata, drug), amount.notna(), "no dose known")


def devel(path: Path, study: str, smallest_is_one: bool) -> AnnData:
    """One study in PerturBench's development file.

    Parameters
    ----------
    path
        The published file, HDF5.
    study
        Name of the study in obs["dataset"], such as "norman19".
    smallest_is_one
        Whether the smallest value of every cell is one count; else `ncounts` of obs tells one from two.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation".

    Raises
    ------
    DatasetError
        For counts that are not whole numbers.
    """
    adata = _table(path, dtype=np.float64)
    adata = adata[adata.obs["dataset"] == study].copy()
    adata.X = _counts(adata, smallest_is_one)
    return _name(adata, adata.obs["perturbation"])


def _counts(adata: AnnData, smallest_is_one: bool) -> sp.csr_matrix:
    """Counts from X = log(1 + 1e4 count / ncounts') with a denominator ncounts' of its own in each cell.

    All values of a cell are whole multiples of one quantum: its smallest value is one count, or in few cells two, which
    `ncounts` tells apart.
    """
    scaled = adata.X.copy()
    scaled.data = np.expm1(scaled.data)
    smallest = np.minimum.reduceat(scaled.data, scaled.indptr[:-1])
    least = 1.0 if smallest_is_one else np.rint(smallest * adata.obs["ncounts"].to_numpy() / 1e4)
    exact = scaled.data / np.repeat(smallest / least, np.diff(scaled.indptr))
    counts = np.rint(exact)
    require(np.abs(exact - counts).max() < 1e-6, "has counts that are not whole numbers", DatasetError)
    return sp.csr_matrix((counts.astype(np.float32), scaled.indices, scaled.indptr), shape=scaled.shape)


def tapseq(counts: Path, guides: Path, umis: int, multiplets: bool) -> AnnData:
    """Schraivogel et al. as in crispat: a name is a guide, and cells with non-targeting guides only are controls.

    Cells without a guide are left out, and those with several too unless they are asked for: their names are joined by
    "|", non-targeting guides left out.

    Parameters
    ----------
    counts
        Counts of the panel's genes in each cell, comma-separated.
    guides
        UMIs of the guides in the same cells, HDF5.
    umis
        A cell has a guide of which it has at least as many UMIs.
    multiplets
        Whether cells with several guides are kept.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation", "target" (as the guide's name has it),
        "guide" (with non-targeting ones), "n_guides", "guide_umis" (of all guides) and "batch" (TAP1 or TAP2, from the
        cell's name; the file's own column is 1 throughout); uns "guide_calls", the numbers of cells with no guide, one
        and several, before any are left out.

    Raises
    ------
    DatasetError
        If the two files have not the same cells.
    """
    table, found = pd.read_csv(counts, index_col=0), _table(guides)
    if not table.index.equals(found.obs_names):
        raise DatasetError(f"has not the cells of {guides.name} in their order")
    has = pd.DataFrame(found.X.toarray() >= umis, found.obs_names, found.var_names)
    target = has.columns.to_series().str.extract(TAPSEQ_TARGET)[0].dropna()
    targets = has[target.index].T.groupby(target).any().T
    parts = {"perturbation": has[target.index], "target": targets, "guide": has}
    obs = pd.DataFrame({column: _join(on, "|") for column, on in parts.items()}, dtype="category")
    obs["batch"] = pd.Categorical(obs.index.str.split("-").str[0])
    obs["n_guides"], obs["guide_umis"] = has.sum(axis=1), found.X.sum(axis=1).astype(int)
    adata = AnnData(sp.csr_matrix(table, dtype=np.float32), obs=obs, var=pd.DataFrame(index=table.columns))
    cells = obs["n_guides"].clip(upper=2).value_counts().reindex(range(3), fill_value=0).tolist()
    adata.uns["guide_calls"] = {"umis": umis, **dict(zip(("none", "one", "several"), cells, strict=True))}
    adata = _keep(adata, obs["n_guides"] > 0, f"no guide with {umis} UMIs")
    return adata if multiplets else _keep(adata, adata.obs["n_guides"] == 1, "several guides")


def glioblastoma(path: Path) -> AnnData:
    """Zhao et al. as in lemur's example, an R object: slices of five tumours with panobinostat or its solvent alone.

    Parameters
    ----------
    path
        The published file, of R's `save`.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation" ("control" is DMSO), "patient", "age", "gender" and
        "location" of the tumour; var by symbol, with "gene_id".

    Raises
    ------
    DatasetError
        If rdata, which reads R's files, is not installed.
    """
    found = _r_objects(path)["glioblastoma_example_data"]
    cells, genes = found.colData.listData, found.rowRanges.elementMetadata.listData
    obs = {"patient": cells["patient_id"], **{name: cells[name] for name in ("age", "gender", "location")}}
    var = pd.DataFrame({"gene_id": genes["gene_id"]}, index=genes["symbol"])
    x = sp.csr_matrix(found.assays.data.listData["counts"].T, dtype=np.float32)
    adata = AnnData(x, obs=pd.DataFrame(obs, cells["id"]), var=var)
    return _name(adata, pd.Series(cells["condition"]).replace("ctrl", "control"))


def _r_objects(path: Path) -> dict[str, Any]:
    """What R saved, by name: sparse matrices as CSC, other objects by their slots."""
    require(find_spec("rdata"), "is a file of R's, for which rdata is needed: `pip install rdata`", DatasetError)
    import rdata  # slow to import, and used for this file alone

    def sparse(_: Any, slots: Mapping[str, Any]) -> sp.csc_matrix:
        return sp.csc_matrix((slots["x"], slots["i"], slots["p"]), shape=tuple(slots["Dim"]))

    def by_slots(_: Any, slots: Mapping[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(**slots)

    classes = ("SingleCellExperiment", "CompressedGRangesList", "SimpleAssays", "SimpleList", "DFrame")
    known: dict[str | bytes, Any] = {**rdata.conversion.DEFAULT_CLASS_MAP, "dgCMatrix": sparse}
    known |= dict.fromkeys(classes, by_slots)
    with warnings.catch_warnings(action="ignore"):  # of the classes that are not needed here
        return rdata.read_rda(path, constructor_dict=known)


def published_lists(notebook: Path) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """The lists that a published notebook assigns in its code cells, known by their sums whatever they are called.

    Parameters
    ----------
    notebook
        The notebook, which is parsed, never run.

    Returns
    -------
    tuple
        Target genes, measured genes, and the targets of each pathway by its name.

    Raises
    ------
    DatasetError
        If the file is no notebook, or a list is not there as published.
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError("is no notebook") from error
    found = {fingerprint(names): list(dict.fromkeys(names)) for source in sources for names in _literals(source)}

    def get(what: str, start: str) -> list[str]:
        matching = [names for key, names in found.items() if key.startswith(start)]
        require(matching, f"has no list of {what} with the published sum {start}", DatasetError)
        return matching[0]

    pathways = {name: get(name, start) for name, start in PATHWAYS.items()}
    return get("targets", TARGETS), get("genes", GENES), pathways


def _literals(source: str) -> list[list[str]]:
    """The lists of names written out in a cell: lists of texts, and texts with commas and line breaks."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # a cell of commands to the notebook
        return []
    texts = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    lists = [[str(e.value) for e in n.elts if isinstance(e, ast.Constant)] for n in nodes if isinstance(n, ast.List)]
    return [re.split(r"[,\n]", text) for text in texts] + lists


def _with_pathways(adata: AnnData, pathways: Mapping[str, Iterable[str]]) -> AnnData:
    """Guide pairs as names; obs["pathway"] of each cell's target and uns["pathways"], whose sums are checked."""
    lists = {name: [str(gene) for gene in genes] for name, genes in pathways.items()}
    for name, start in PATHWAYS.items():
        as_published = fingerprint(lists.get(name, ())).startswith(start)
        require(as_published, f"has not the published list of genes in uns['pathways'][{name!r}]", DatasetError)
    guides = adata.obs["sgID_AB"].astype(str)
    adata = _name(adata, guides.where(~guides.str.contains("non-targeting"), "control"))
    pathway = {gene: name for name, genes in lists.items() for gene in genes}
    adata.obs["pathway"] = pd.Categorical(adata.obs["gene"].astype(str).map(pathway).fillna("none"))
    adata.uns["pathways"] = {name: np.array(genes, dtype=object) for name, genes in lists.items()}
    return adata


def replogle(path: Path) -> AnnData:
    """Replogle et al. as prepared for SAMS-VAE: a name is a pair of guides; pathways come with the file.

    Parameters
    ----------
    path
        The published file, HDF5.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation" and "pathway" of each cell's target; uns "pathways".

    Raises
    ------
    DatasetError
        If the pathways are not the published ones.
    """
    with h5py.File(path) as file:
        pathways = read_elem(file["uns/pathways"])
    return _with_pathways(_table(path), pathways)


def replogle_raw(path: Path, notebook: Path) -> AnnData:
    """The published choice of cells and genes from the genome-wide file, which is read in blocks of rows.

    Kept are the cells of the listed targets, 2,000 non-targeting cells drawn as published, and the listed genes, all in
    the order of the file.

    Parameters
    ----------
    path
        The genome-wide file, HDF5.
    notebook
        The published notebook with the lists.

    Returns
    -------
    AnnData
        Cells x genes: X the counts (CSR); obs "perturbation" and "pathway" of each cell's target; uns "pathways".

    Raises
    ------
    DatasetError
        If the notebook has not the published lists.
    """
    targets, measured, pathways = published_lists(notebook)
    raw = read_h5ad(path, backed="r")
    step = max(1, BLOCK // raw.n_vars)
    with closing(raw.file), Progress(-(-raw.n_obs // step)) as bar:
        target = raw.obs["gene"].astype(str).to_numpy()
        keep = np.isin(target, targets)
        controls = np.flatnonzero(target == "non-targeting")
        np.random.RandomState(0).shuffle(controls)  # the published draw
        keep[controls[:CONTROLS_KEPT]] = True
        genes = np.flatnonzero(raw.var["gene_name"].astype(str).isin(measured))
        blocks = []
        for block, start, end in raw.chunked_X(step):
            blocks.append(sp.csr_matrix(block[keep[start:end]][:, genes], dtype=np.float32))
            bar.advance()
        adata = AnnData(sp.vstack(blocks, format="csr"), obs=raw.obs[keep], var=raw.var.iloc[genes])
    return _with_pathways(adata, pathways)
