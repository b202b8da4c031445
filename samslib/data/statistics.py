"""Sums and moments of counts, a block of rows at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from samslib.cells import Pseudobulk
from samslib.data.disk import OnDisk

BLOCK = 4_000_000  # entries made dense at a time while reading or averaging, 32 MB in float64


def one_hot(codes: np.ndarray, size: int) -> sp.csr_matrix:
    """A row for each code, with a 1 in the column of that number.

    Parameters
    ----------
    codes
        (n,) numbers of columns; -1 for a row of zeros.
    size
        Number of columns, k.

    Returns
    -------
    csr_matrix
        (n, k) float32.
    """
    rows = np.flatnonzero(codes >= 0)
    return sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, codes[rows])), shape=(len(codes), size))


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


def gene_moments(x: Any) -> dict[str, torch.Tensor]:
    """Mean and standard deviation of each gene, of x and of log(1 + x).

    Blocks of rows are merged pairwise in float64.

    Parameters
    ----------
    x
        (n, G) values, in memory or on disk, at least 2 rows.

    Returns
    -------
    dict
        (G,) tensors: "mean" and "std", the sample standard deviation, of x; "log_mean" and "log_std" of log(1 + x). The
        deviation of a gene that is constant but for rounding is 1; log(1 + x) is not a number where x is -1 or less.
    """
    mean, squares = np.zeros((2, 2, x.shape[1]))  # of x and of its logarithm
    step = max(2, BLOCK // x.shape[1])
    for start in range(0, x.shape[0], step):
        block = x[start : start + step]
        dense = np.asarray(block.toarray() if sp.issparse(block) else block, dtype=np.float64)
        size = len(dense)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = np.stack([dense, np.where(dense > -1, np.log1p(dense), np.nan)])
        centre = values.mean(1)
        gap = centre - mean
        squares += ((values - centre[:, None]) ** 2).sum(1) + gap**2 * (start * size / (start + size))
        mean += gap * (size / (start + size))
    std = np.sqrt(squares / (x.shape[0] - 1))
    std[std <= 1e-12 * np.abs(mean)] = 1  # constant but for rounding
    return dict(zip(("mean", "log_mean", "std", "log_std"), map(_tensor, (*mean, *std)), strict=True))


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values).to(torch.get_default_dtype())


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
    doses = data.dose.tocsr().sorted_indices()
    parts = {"cells": [data.cells], "genes": [data.genes], "perturbations": [data.perturbations]}
    parts |= {
        "targets": [data.targets],
        "covariates": [data.covariates, data.covariate],
        "quality flags": [data.quality, data.qc],
    }
    found = {kind: _hash(len(names), names, *values) for kind, (names, *values) in parts.items()}
    entries = _hash(doses.nnz, doses.indptr.astype(np.int64), doses.indices.astype(np.int64), doses.data)
    return found | {"doses": entries, "values": _hash(data.x.shape[1], sums, data.library.astype(np.float32))}


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
    of = one_hot(code, len(names)).T.tocsr().astype(np.float64)
    counts, sizes = row_product(of, x), np.bincount(code)
    share = counts / counts.sum(1, keepdims=True)
    second = (of @ library**2) @ share**2
    cross = (row_product(of.multiply(library).tocsr(), x) * share).sum(0)
    squares = sum(np.asarray(block.multiply(block).sum(0, dtype=np.float64)).ravel() for _, block in row_blocks(x))
    left = squares - 2 * cross + second - counts.sum(0)
    concentration = np.divide(second, left, out=np.full_like(left, 100.0), where=left > 0).clip(0.01, 100)
    return Pseudobulk(*map(_tensor, (counts, (of @ dose).toarray() / sizes[:, None], sizes, concentration)))
