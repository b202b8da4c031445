"""Which cells are of poor quality, and how each would look otherwise: what CRADLE-VAE must be told of the data.

The rules are those of Baek et al. 2025: a cell fails if a measure of it lies more than k median absolute deviations
(MAD, without the factor 1.4826) on the bad side of the median of all cells. Label all cells before splitting and
before selecting genes, since a share of mitochondrial counts among a few hundred chosen genes is another quantity.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from samslib.data.container import PerturbationData, check_data
from samslib.data.reading import check_anndata, read_matrix
from samslib.validation import DataError, above, at_least, left_out, require

LOG = logging.getLogger("samslib")

CLASSES = {"percent_mt": "MT-", "percent_ribo": "RP[SL]", "percent_hb": "HB[^(P)]"}  # how the genes' symbols begin

BELOW = ("counts", "genes")  # measures of which too little is bad; of the others, too much is


def measure(adata: Any, layer: str | None = None) -> pd.DataFrame:
    """Quality measures of each cell.

    Parameters
    ----------
    adata
        Raw counts of all genes, with gene symbols as `var_names`.
    layer
        Layer that holds the counts; None for `adata.X`.

    Returns
    -------
    A row a cell: "counts", "genes" detected, and the percentages of counts on mitochondrial (MT-), ribosomal (RPS, RPL)
    and haemoglobin genes (HB but not HBP); 0 % in a cell without counts.

    Raises
    ------
    DataError
        For a missing layer, values that are no counts, and where no gene is of any class; warns where one class has
        none.
    """
    check_anndata(adata, "Quality control")
    symbols = adata.var_names.astype(str).str
    members = pd.DataFrame({name: symbols.match(start) for name, start in CLASSES.items()})
    missing = [name.removeprefix("percent_") for name in members.columns[~members.any()]]
    remedy = f"in place of {adata.var_names[0]!r} and so on, name all genes by gene symbols such as 'MT-CO1'"
    require(members.any(axis=None), f"No gene is mitochondrial, ribosomal or haemoglobin; {remedy}.", DataError)
    if missing:
        LOG.warning("no %s genes among these %d, so no cell can fail by them", " and no ".join(missing), len(members))
    stored, total = read_matrix(adata, layer, counts=True)
    x = stored[:]
    table = pd.DataFrame({"counts": total, "genes": np.diff(x.indptr).astype(float)}, index=adata.obs_names)
    table[members.columns] = 100 * (x @ members.to_numpy(float)) / np.maximum(total, 1)[:, None]
    return table


def thresholds(measured: pd.DataFrame, k: float = 5) -> pd.Series:
    """The last value of each measure that passes.

    Parameters
    ----------
    measured
        Of `measure`.
    k
        Distance in median absolute deviations (MAD), above 0; 3, 4 or 5 in published comparisons.

    Returns
    -------
    median - k MAD of counts and genes, median + k MAD of percentages.
    """
    above(0, k=k)
    middle = measured.median()
    mad = (measured - middle).abs().median()
    return middle + k * mad * np.where(measured.columns.isin(BELOW), -1, 1)


def label(
    adata: Any,
    layer: str | None = None,
    k: float | None = None,
    doublets: bool | float = False,
    limits: pd.Series | None = None,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Which cells fail quality control.

        adata.obs["fails"] = quality.label(adata)["fails"]
        data = PerturbationData.from_anndata(adata, quality="fails")

    Parameters
    ----------
    adata, layer
        As in `measure`.
    k
        As in `thresholds`, there 5 by default; only without `limits`.
    doublets
        Whether doublets fail too: True for Scrublet's own threshold, between the two modes of the scores of doublets
        that it simulates, or a score between 0 and 1 above which a cell is a doublet.
    limits
        `thresholds` of other cells, to judge generated cells as the real ones were; None for those of these cells.
    seed
        Of Scrublet.

    Returns
    -------
    True where a cell fails: a column for each measure, "doublet" if asked for, and "fails", any of them.
    `attrs["thresholds"]` holds the limits used, by name.

    Raises
    ------
    DataError
        As `measure` does, and where Scrublet finds no threshold.
    ValueError
        For both `k` and `limits`.
    """
    if limits is not None:
        left_out("limits are given", k=k)
    measured = measure(adata, layer)
    limits = thresholds(measured, 5 if k is None else k) if limits is None else limits
    table = pd.DataFrame({n: v < limits[n] if n in BELOW else v > limits[n] for n, v in measured.items()})
    if doublets is not False:
        table["doublet"] = _doublets(adata, layer, doublets, seed)
    table["fails"] = table.any(axis=1)
    table.attrs["thresholds"] = {str(n): float(v) for n, v in limits.items()}
    return table


def _doublets(adata: Any, layer: str | None, limit: float, seed: int) -> np.ndarray:
    import scanpy

    copy = anndata.AnnData(read_matrix(adata, layer, counts=True)[0][:])
    scanpy.pp.scrublet(copy, threshold=None if limit is True else float(limit), random_state=seed, verbose=False)
    if "predicted_doublet" not in copy.obs:
        raise DataError("Scrublet found no threshold between its two modes; give a score such as doublets=0.25.")
    return copy.obs["predicted_doublet"].to_numpy(dtype=bool)


def with_twins(
    data: PerturbationData, most: int | None = None, as_published: bool = False, *, seed: int = 0
) -> PerturbationData:
    """The same cells, each with a twin: the cell as it would look in the other class, failing or passing.

    Gene by gene, its counts are multiplied by the other class's mean over that of its own, both among the cells of its
    label (real values are shifted by the difference). The label's own mean joins each class as one more cell, so that
    few cells give mild ratios; a twin is all zero where its label lacks a class. Call it on each part of a split, so
    that no cell's twin is made of another part's cells.

    Parameters
    ----------
    data
        Cells with a quality flag.
    most
        Number of cells of each median of `as_published`; None for 50.
    as_published
        Whether a twin is what a cell of its label looks like when it fails, for all cells alike: the lower median (that
        of `torch.median`) of `most` cells, or of as many as there are if fewer, drawn with replacement from the failing
        cells of the label; zeros without any.
    seed
        Of the draws of `as_published`.

    Raises
    ------
    DataError
        Without a quality flag.
    ValueError
        For `most` below 1, or without `as_published`.
    """
    require(check_data(data, "with_twins").quality, "Twins need a quality flag; see from_anndata(quality=).", DataError)
    if not as_published:
        left_out("only as_published draws cells", most=most)
    most = 50 if most is None else most
    at_least(1, most=most)
    rng = np.random.default_rng(seed)
    failing = (data.qc != 0).any(1)
    blocks, order = [sp.csr_matrix((0, len(data.genes)), dtype=np.float32)], [np.zeros(0, dtype=int)]
    for name in pd.unique(data.labels):
        cells = np.flatnonzero(data.labels == name)
        x, fails = sp.csr_matrix(data.x[cells]), failing[cells]
        blocks += _failing_medians(x, fails, most, rng) if as_published else _other_class(x, fails, data.counts)
        order += [cells] if as_published else [cells[~fails], cells[fails]]
    return replace(data, twin=sp.vstack(blocks, format="csr", dtype=np.float32)[np.argsort(np.concatenate(order))])


def _other_class(x: sp.csr_matrix, fails: np.ndarray, counts: bool) -> list[sp.csr_matrix]:
    """Twins of the passing and of the failing cells of one label."""
    classes = [x[~fails], x[fails]]
    if not all(c.shape[0] for c in classes):
        return [sp.csr_matrix(c.shape) for c in classes]
    means = [np.asarray(c.sum(0) + x.mean(0)) / (1 + c.shape[0]) for c in classes]
    pairs = zip(classes, means, means[::-1], strict=True)
    if not counts:
        return [sp.csr_matrix(c.toarray() + other - own) for c, own, other in pairs]
    return [c.multiply(other / np.where(own > 0, own, 1)) for c, own, other in pairs]


def _failing_medians(x: sp.csr_matrix, fails: np.ndarray, most: int, rng: np.random.Generator) -> list[sp.csr_matrix]:
    """Twins of the cells of one label, in blocks that fit into memory."""
    found = torch.from_numpy(x[fails].toarray())  # draws are positions in this table, and only in it
    if not len(found):
        return [sp.csr_matrix(x.shape)]
    sizes = map(len, np.array_split(fails, -(-len(fails) // 64)))
    drawn = (torch.from_numpy(rng.integers(len(found), size=(size, min(most, len(found))))) for size in sizes)
    return [sp.csr_matrix(found[at].median(1).values.numpy()) for at in drawn]
