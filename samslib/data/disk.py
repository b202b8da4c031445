"""Counts that stay in their file: rows of a sparse matrix on disk, read into memory a part at a time.

The reading is anndata's own, for HDF5 and zarr alike: one call with a mask of rows reads many short runs at about the
price of a few long ones, where a call a run would cost milliseconds each.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

PIECE = 2**22  # stored values asked for in one reading, 32 MB; a few times that if rows between are read along

GAP = 4  # rows that lie this near are read in one run, those between them dropped

WINDOW = 2**24  # stored values held in memory while training, 128 MB


def canonical(x: Any) -> sp.csr_matrix:
    """A matrix in one form: CSR float64, entries in pieces summed, explicit zeros left out, masked ones NaN.

    It is made float64 first: two pieces of 200 are 400, which a byte does not hold.

    Parameters
    ----------
    x
        (n, G) matrix, dense, masked or sparse; it stays as it is.

    Returns
    -------
    csr_matrix
        (n, G), a new one.
    """
    x = x.astype(np.float64)
    x = sp.csr_matrix(x if sp.issparse(x) else np.ma.filled(x, np.nan))
    x.sum_duplicates()
    x.eliminate_zeros()
    return x


class OnDisk:
    """(n, G) rows of a CSR matrix in an open HDF5 file or zarr store; `x[rows]` reads them as CSR float32.

    Rows may be chosen by a slice, a mask or positions, in any order and more than once; `select` chooses without
    reading. A matrix with explicit zeros or with entries in pieces is read as if it had none. Memory: what was asked
    for, twice while it is put together, and a few times `PIECE`.

    Parameters
    ----------
    source
        The matrix in its open file or store, as anndata gives it (`anndata.abc.CSRDataset`).

    Raises
    ------
    OSError
        On reading, with the name of the file, if it was closed, or its folder if a zarr store is gone.
    """

    def __init__(self, source: Any):
        group: Any = source.group
        self.source, self.genes = source, np.arange(source.shape[1])
        self.folder = getattr(getattr(group, "store", None), "root", None)  # of a zarr store that is one
        self.path = self.folder or (group.store if hasattr(group, "store") else group.file.filename)
        self.stored = np.diff(group["indptr"][:]).astype(np.int32)  # values a row of the file
        self.rows = np.arange(source.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of chosen rows and columns, (n, G)."""
        return len(self.rows), len(self.genes)

    def select(self, rows: Any = slice(None), genes: Any = slice(None)) -> OnDisk:
        """The chosen rows and columns, still on disk.

        Parameters
        ----------
        rows, genes
            A slice, a mask or positions among the present ones. By default all.

        Returns
        -------
        OnDisk
            A view on the same file.
        """
        chosen = copy(self)
        chosen.rows, chosen.genes = self.rows[rows], self.genes[genes]
        return chosen

    def __getitem__(self, rows: Any) -> sp.csr_matrix:
        wanted, back = np.unique(self.rows[rows], return_inverse=True)
        x = sp.vstack([self._read(piece) for piece in self._pieces(wanted)], format="csr")
        return x if np.array_equal(back, np.arange(len(wanted))) else x[back]

    def blocks(self) -> Iterator[tuple[int, sp.csr_matrix]]:
        """All rows in order, about `PIECE` stored values at a time.

        Returns
        -------
        Iterator
            The position of a block's first row, and the block, CSR float32.
        """
        start = 0
        for piece in self._pieces(self.rows):
            yield start, self[start : start + len(piece)]
            start += len(piece)

    def sum(self) -> float:
        """Sum of all values.

        Returns
        -------
        float
            The sum, in float64.
        """
        return sum(float(block.sum(dtype=np.float64)) for _, block in self.blocks())

    def window(self) -> int:
        """How many of these rows have `WINDOW` stored values, on average.

        Returns
        -------
        int
            Number of rows.
        """
        return int(len(self.rows) * WINDOW / max(1, self.stored[self.rows].sum(dtype=np.int64)))

    def _pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """File rows cut into parts of about `PIECE` stored values each."""
        return np.split(rows, np.flatnonzero(np.diff(np.cumsum(self.stored[rows], dtype=np.int64) // PIECE)) + 1)

    def _read(self, wanted: np.ndarray) -> sp.csr_matrix:
        """Rows of the file, sorted and each once."""
        mask = np.zeros(len(self.stored), dtype=bool)
        for run in filter(len, np.split(wanted, np.flatnonzero(np.diff(wanted) > GAP) + 1)):
            mask[run[0] : run[-1] + 1] = True
        try:
            if self.folder is not None and not Path(self.folder).exists():  # it would be read as zeros
                raise FileNotFoundError("there is no such folder")
            x = canonical(self.source[mask])
        except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            remedy = "if the file was closed, moved or changed, open it again and make the data anew"
            raise OSError(f"The counts in {self.path} can no longer be read ({error}); {remedy}.") from error
        x = x if x.shape[0] == len(wanted) else x[np.searchsorted(np.flatnonzero(mask), wanted)]
        x = x if np.array_equal(self.genes, np.arange(x.shape[1])) else x[:, self.genes]
        return x.astype(np.float32)
