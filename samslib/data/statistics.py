"""Sums and moments of counts, a block of rows at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from samslib.cells import DataSummary, Pseudobulk
from samslib.data.disk import OnDisk
from samslib.data.messages import count_cells
from samslib.validation import DataError

BLOCK = 4_000_000  # entries made dense at a time while reading or averaging, 32 MB in float64


def row_totals(block: Any) -> np.ndarray:
    """The sum of each row.

    Parameters
    ----------
    block
        (n, G) values, dense or sparse.

    Returns
    -------
    ndarray
        (n,) sums, in float64.
    """
    return block @ np.ones(block.shape[1])  # in float64


def row_blocks(x: Any) -> Iterator[tuple[int, Any]]:
    """Blocks of rows that fit into memory.

    Parameters
    ----------
    x
        (n, G) values, in memory or on disk.

    Returns
    -------
    Iterator
        Position of a block's first row, and the block; one block of all rows if x is in memory already.
    """
    return x.blocks() if isinstance(x, OnDisk) else iter([(0, x)])


def row_product(of: sp.csr_matrix, x: Any) -> np.ndarray:
    """Product of a sparse matrix with x, a block of rows at a time.

    Parameters
    ----------
    of
        (k, n) sparse matrix.
    x
        (n, G) values, in memory or on disk.

    Returns
    -------
    ndarray
        (k, G) product.
    """
    parts = (of[:, start : start + block.shape[0]] @ block for start, block in row_blocks(x))
    return sum(part.toarray() if sp.issparse(part) else part for part in parts)


def gene_moments(x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of each gene, of x and of log(1 + x).

    Blocks of rows are merged pairwise in float64.

    Parameters
    ----------
    x
        (n, G) values, in memory or on disk, at least 2 rows.

    Returns
    -------
    tuple
        Four arrays (G,): mean and sample standard deviation of x, then those of log(1 + x). The deviation of a gene
        that is constant but for rounding is 1; log(1 + x) is not a number where x is -1 or less.
    """
    genes = x.shape[1]
    mean, squares = np.zeros((2, genes)), np.zeros((2, genes))
    step = max(2, BLOCK // genes)
    for start in range(0, x.shape[0], step):
        block = x[start : start + step]
        dense = np.asarray(block.toarray() if sp.issparse(block) else block, dtype=np.float64)
        size = len(dense)
        with np.errstate(invalid="ignore", divide="ignore"):
            for i, values in enumerate((dense, np.where(dense > -1, np.log1p(dense), np.nan))):
                centre = values.mean(0)
                gap = centre - mean[i]
                squares[i] += ((values - centre) ** 2).sum(0) + gap**2 * (start * size / (start + size))
                mean[i] += gap * (size / (start + size))
    std = np.sqrt(squares / (x.shape[0] - 1))
    std[std <= 1e-12 * np.abs(mean)] = 1  # constant but for rounding
    return mean[0], std[0], mean[1], std[1]


def summarise(data: Any, train: Any, pseudobulk: bool) -> DataSummary:
    """Names of data and statistics of their training cells; see `PerturbationData.summary`.

    Parameters
    ----------
    data
        A `PerturbationData`.
    train
        Its training cells, at least 2.
    pseudobulk
        Also keep the counts summed by condition, as in `condition_sums`.

    Returns
    -------
    DataSummary
        What a model needs to know of its data.

    Raises
    ------
    DataError
        If the training cells have other names than the data or are fewer than 2, and for the pseudobulk of real values.
    """
    columns = ("genes", "perturbations", "covariates", "quality")
    if other := [name for name in columns if getattr(data, name) != getattr(train, name)]:
        remedy = "use a part of the data"
        raise DataError(f"The training cells have other {' and '.join(other)} than the data; {remedy}.")
    if len(train) < 2:
        raise DataError(f"The training split has {count_cells(len(train))}; at least 2 are needed.")
    if pseudobulk and not data.counts:
        raise DataError("Real values have no pseudobulk; make the data of counts, or leave pseudobulk=False.")
    fields: dict[str, Any] = {name: getattr(data, name) for name in (*columns, "control", "counts", "unique")}
    for name, values in zip(("mean", "std", "log_mean", "log_std"), gene_moments(train.x), strict=True):
        fields[name] = torch.tensor(values).to(torch.get_default_dtype())
    return DataSummary(
        **fields,
        n_cells=len(train),
        n_treated=tuple(map(int, train.n_treated)),
        n_flagged=tuple(map(int, train.qc.sum(0))),
        pseudobulk=condition_sums(train.x, train.labels, train.dose, train.library) if pseudobulk else None,
    )


def digest(data: Any) -> dict[str, str]:
    """What tells data from others: number and hash of each kind of names and values.

    Parameters
    ----------
    data
        A `PerturbationData`. Of its x, only the sums of cells and of genes count; it is read once.

    Returns
    -------
    dict
        Kind, such as "cells" -> number and the first 12 digits of a sha256, as text.
    """
    sums = row_product(sp.csr_matrix(np.ones((1, len(data)))), data.x).astype(np.float32)
    doses = data.dose.tocsr(copy=True)
    doses.sort_indices()
    at = doses.indptr.astype(np.int64), doses.indices.astype(np.int64)
    return {
        "cells": _hash(len(data), data.cells),
        "genes": _hash(len(data.genes), data.genes),
        "perturbations": _hash(len(data.perturbations), data.perturbations),
        "covariates": _hash(len(data.covariates), data.covariates, data.covariate),
        "quality flags": _hash(len(data.quality), data.quality, data.qc),
        "doses": _hash(doses.nnz, *at, doses.data),
        "values": _hash(data.x.shape[1], sums, data.library.astype(np.float32)),
    }


def _hash(number: int, *parts: Any) -> str:
    """A number and the start of the sha256 of names (tuples, or arrays of texts) and values."""
    total = hashlib.sha256()
    for part in parts:
        names = isinstance(part, tuple) or part.dtype == object
        total.update("\0".join(map(str, part)).encode() if names else part.tobytes())
    return f"{number} ({total.hexdigest()[:12]})"


def condition_sums(x: Any, labels: np.ndarray, dose: sp.csr_matrix, library: np.ndarray) -> Pseudobulk:
    """Pseudobulk: counts summed by condition, and a concentration of each gene.

    The concentration c solves E[(x - m)^2] = E[m] + E[m^2] / c over cells, m a cell's library times its condition's
    share. It is kept within 0.01 and 100, and is 100 where no variance is left for it.

    Parameters
    ----------
    x
        (n, G) counts, in memory or on disk.
    labels
        (n,) condition of each cell; rows of the result are in sorted order.
    dose
        (n, T) doses.
    library
        (n,) total counts.

    Returns
    -------
    Pseudobulk
        Counts (conditions, G), mean doses (conditions, T), numbers of cells (conditions,) and concentrations (G,).
    """
    code, names = pd.factorize(labels, sort=True)
    cells = len(labels)
    of = sp.csr_matrix((np.ones(cells), (code, np.arange(cells))), (len(names), cells))
    counts, sizes = row_product(of, x), np.bincount(code)
    share = counts / counts.sum(1, keepdims=True)
    second = (of @ library**2) @ share**2
    cross = (row_product(of.multiply(library).tocsr(), x) * share).sum(0)
    squares = sum(np.asarray(block.multiply(block).sum(0, dtype=np.float64)).ravel() for _, block in row_blocks(x))
    left = squares - 2 * cross + second - counts.sum(0)
    concentration = np.divide(second, left, out=np.full_like(left, 100.0), where=left > 0).clip(0.01, 100)
    parts = counts, (of @ dose).toarray() / sizes[:, None], sizes, concentration
    return Pseudobulk(*(torch.as_tensor(part).to(torch.get_default_dtype()) for part in parts))
