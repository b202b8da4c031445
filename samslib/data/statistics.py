"""Sums and moments of counts, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from samslib.data.disk import OnDisk

BLOCK = 4_000_000  # entries made dense at a time while reading or averaging, 32 MB in float64


def row_totals(block: Any) -> np.ndarray:
    return block @ np.ones(block.shape[1])  # in float64


def row_blocks(x: Any) -> Iterator[tuple[int, Any]]:
    """Blocks of rows that fit into memory, each with the position of its first row: one if x is there already."""
    return x.blocks() if isinstance(x, OnDisk) else iter([(0, x)])


def row_product(of: sp.csr_matrix, x: Any) -> np.ndarray:
    """(k, G) product of a sparse matrix (k, n) with x (n, G)."""
    parts = (of[:, start : start + block.shape[0]] @ block for start, block in row_blocks(x))
    return sum(part.toarray() if sp.issparse(part) else part for part in parts)


def gene_moments(x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation of each gene of x and of log(1 + x), blocks of rows merged pairwise in
    float64."""
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
