"""From published files of perturbed cells to AnnData with raw counts in X and names in obs["perturbation"].

Each reader knows one schema, in the terms of the published experiments; the page on data sets has them in words. What a
reader finds wrong it says as a predicate of the file ("has no column ..."), for `samslib.datasets` to complete.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib.data.statistics import BLOCK
from samslib.progress import Progress
from samslib.validation import DataError

if TYPE_CHECKING:
    from anndata import AnnData

LOG = logging.getLogger("samslib")

TARGETS = "9535cf24f8b9e66cfd724d9a725ddceac4a1cd467b2a85b5eeb67362c094a394"

GENES = "79c13dbfa5eea180e0066394c1f8207bb8da68b1891c60f338a26e6e6ade6418"

PATHWAYS = {  # sha256 of the sorted names, joined by newlines: the first 16 digits
    "EXOSOME": "f9c28be256cb693e",
    "SPLICEOSOME": "c03bb15851c2acd9",
    "MEDIATOR_COMPLEX": "826694f458265b65",
    "NUCLEOTIDE_EXCISION_REPAIR": "2404f663d7dac7f7",
    "S40_RIBOSOMAL_UNIT": "b5dbaff0c9f7f262",
    "S39_RIBOSOMAL_UNIT": "99b91034b58aebfd",  # so spelt; the mitochondrial subunits
    "S60_RIBOSOMAL_UNIT": "dfdf2b8e2095d76c",
    "MT_PROTEIN_TRANSLOCATION": "542d19eddc04e06d",
}

CONTROLS_KEPT = 2000  # of the genome-wide screen's 75,328 non-targeting cells


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
    from anndata import AnnData
    from anndata.io import read_elem

    with h5py.File(path) as file:
        x, obs, var = (read_elem(file[part]) for part in (matrix, "obs", "var"))
    adata = AnnData(sp.csr_matrix(x, dtype=dtype), obs=obs, var=var)
    for axis, names in (("genes", adata.var_names), ("cells", adata.obs_names)):
        if twice := int(names.duplicated().sum()):
            LOG.warning("%s: %d names of %s occur again and got a number", path.name, twice, axis)
            (adata.var_names_make_unique if axis == "genes" else adata.obs_names_make_unique)()
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
    if not columns:
        raise DatasetError("has no column of obs that says 0 or 1 for a perturbation")
    on = adata.obs[list(columns)].to_numpy(dtype=float)
    if not np.isin(on, (0, 1)).all():
        wrong = [c for c, values in zip(columns, on.T, strict=True) if not np.isin(values, (0, 1)).all()]
        raise DatasetError(f"has other values than 0 and 1 in the column obs[{wrong[0]!r}] of a perturbation")
    names = np.array(list(columns.values()), dtype=object)
    kinds, which = np.unique(on.astype(np.uint8), axis=0, return_inverse=True)
    labels = np.array(["+".join(names[row == 1]) or "control" for row in kinds], dtype=object)
    return _name(adata, labels[which.ravel()])


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


def norman_scperturb(path: Path) -> AnnData:
    """Norman et al. by scPerturb: KLF1_MAP2K6 is KLF1+MAP2K6, as in PerturBench.

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
    return _name(adata, adata.obs["perturbation"].astype(str).str.replace("_", "+"))


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
    if genes:
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
    drug = adata.obs["perturbation"].astype(str)
    drug = drug.where(amount != 0, "control")
    known = (drug == "control") | amount.notna()
    adata = _keep(_name(adata, drug), known, "no dose known")
    amount, drug = amount[known].where(drug[known] != "control", 1.0), drug[known]
    adata.obs["dose"] = (amount / amount.groupby(drug).transform("max")).to_numpy(dtype=float)
    return adata


def kang(path: Path) -> AnnData:
    """Kang et al. by pertpy: "stim" is interferon beta, "ctrl" the control.

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
    return _name(adata, adata.obs["label"].astype(str).replace("ctrl", "control"))


def devel(study: str, smallest_is_one: bool) -> Callable[[Path], AnnData]:
    """Reader of one study in PerturBench's development file.

    Parameters
    ----------
    study
        Name of the study in obs["dataset"], such as "norman19".
    smallest_is_one
        Whether the smallest value of every cell is one count; else `ncounts` of obs tells one from two.

    Returns
    -------
    Callable
        From the path of the file to AnnData, cells x genes: X the counts (CSR); obs "perturbation". It raises
        DatasetError for counts that are not whole numbers.
    """

    def read(path: Path) -> AnnData:
        adata = _table(path, dtype=np.float64)
        adata = adata[adata.obs["dataset"] == study].copy()
        adata.X = _counts(adata, smallest_is_one)
        return _name(adata, adata.obs["perturbation"].astype(str))

    return read


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
    if not np.abs(exact - counts).max() < 1e-6:
        raise DatasetError("has counts that are not whole numbers; it is not the file that was checked")
    return sp.csr_matrix((counts.astype(np.float32), scaled.indices, scaled.indptr), shape=scaled.shape)


@dataclass(frozen=True)
class Lists:
    """The published choice of the genome-wide screen: target genes, measured genes, and pathways of targets.

    Parameters
    ----------
    targets
        Names of the target genes.
    genes
        Names of the measured genes.
    pathways
        Name of the pathway -> its target genes.
    """

    targets: frozenset[str]
    genes: frozenset[str]
    pathways: dict[str, list[str]]


def published_lists(notebook: Path) -> Lists:
    """The lists that a published notebook assigns in its code cells, known by their sums whatever they are called.

    Parameters
    ----------
    notebook
        The notebook, which is parsed, never run.

    Returns
    -------
    Lists
        Targets, genes and pathways.

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
        for key in found:
            if key.startswith(start):
                return found[key]
        raise DatasetError(f"has no list of {what} with the published sum {start}")

    pathways = {name: get(name, start) for name, start in PATHWAYS.items()}
    return Lists(frozenset(get("targets", TARGETS)), frozenset(get("genes", GENES)), pathways)


def _literals(source: str) -> list[list[str]]:
    """The lists of names written out in a cell: lists of texts, and texts with commas and line breaks."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a cell of commands to the notebook
        return []
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    lists = [
        [e.value for e in n.elts if isinstance(e, ast.Constant)] for n in ast.walk(tree) if isinstance(n, ast.List)
    ]
    return [re.split(r"[,\n]", text) for text in texts] + [[str(e) for e in names] for names in lists]


def _with_pathways(adata: AnnData, pathways: Mapping[str, Iterable[str]]) -> AnnData:
    """Guide pairs as names; obs["pathway"] of each cell's target and uns["pathways"], whose sums are checked."""
    lists = {name: [str(gene) for gene in genes] for name, genes in pathways.items()}
    wrong = [name for name, start in PATHWAYS.items() if not fingerprint(lists.get(name, ())).startswith(start)]
    if wrong:
        raise DatasetError(f"has not the published list of genes in uns['pathways'][{wrong[0]!r}]")
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
    from anndata.io import read_elem

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
    import anndata

    lists = published_lists(notebook)
    raw = anndata.read_h5ad(path, backed="r")
    try:
        target = raw.obs["gene"].astype(str).to_numpy()
        keep = np.isin(target, list(lists.targets))
        controls = np.flatnonzero(target == "non-targeting")
        np.random.RandomState(0).shuffle(controls)  # the published draw
        keep[controls[:CONTROLS_KEPT]] = True
        genes = np.flatnonzero(raw.var["gene_name"].astype(str).isin(lists.genes))
        step = max(1, BLOCK // raw.n_vars)
        blocks = [sp.csr_matrix((0, len(genes)), dtype=np.float32)]
        with Progress(-(-raw.n_obs // step)) as bar:
            for start in range(0, raw.n_obs, step):
                rows = keep[start : start + step]
                if rows.any():
                    block = raw.X[start : start + step][rows][:, genes]
                    blocks.append(sp.csr_matrix(block, dtype=np.float32))
                bar.advance()
        obs, var = raw.obs[keep].copy(), raw.var.iloc[genes].copy()
    finally:
        raw.file.close()
    return _with_pathways(anndata.AnnData(sp.vstack(blocks, format="csr"), obs=obs, var=var), lists.pathways)


READERS: dict[str, Callable[..., AnnData]] = {
    "norman": norman,
    "norman_devel": devel("norman19", smallest_is_one=False),
    "norman_scperturb": norman_scperturb,
    "mcfaline_devel": devel("mcfaline23", smallest_is_one=True),
    "replogle": replogle,
    "replogle_raw": replogle_raw,
    "adamson": adamson,
    "dixit": dixit,
    "sciplex": sciplex,
    "kang": kang,
}
