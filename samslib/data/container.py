"""From an AnnData of perturbed cells to the batches a model reads.

Counts stay sparse (CSR, float32), in memory or on disk; only `PerturbationData.batch` makes some rows dense. What is
wrong with the input is said before any model sees it, as a `DataError` that names the column or the number of
cells and what to do about it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from samslib.cells import Batch, Condition, DataSummary, Pseudobulk
from samslib.data.disk import OnDisk
from samslib.data.names import LIKE_CONTROL, Names, check_controls, encode_names, other_separator, read_naming
from samslib.data.reading import (
    check_anndata,
    column_names,
    column_of,
    read_covariates,
    read_flags,
    read_labels,
    read_matrix,
    unique_names,
)
from samslib.data.statistics import gene_moments, row_blocks, row_product, row_totals
from samslib.validation import DataError, count_cells, did_you_mean, in_order, quoted

LOG = logging.getLogger("samslib")


@dataclass(frozen=True, eq=False, repr=False)
class PerturbationData:
    """Perturbed cells, ready for a model: n cells, G genes, T perturbations, C covariate columns, Q quality
    flags.

    x (n, G) counts as CSR float32, or real values as CSR or numpy, or either on disk (`samslib.disk.OnDisk`);
    dose (n, T) CSR float32, a zero row is a control; library (n,) total counts over the genes held here (1 for real
    values); covariate (n, C) one-hot; qc (n, Q) 0/1; n_perturbations (n,) how many each cell has;
    labels (n,) the canonical name of each cell's condition, with its doses where they are not 1 ("A=0.5+B"), so that
    cells of one label had the same; raw_labels (n,) the original names; control the label of controls, controls all
    labels that were read as that one; twin (n, G) an optional reference expression of each cell (`samslib.quality`).
    """

    x: Any
    genes: tuple[str, ...]
    cells: np.ndarray
    perturbations: tuple[str, ...]
    control: str | None
    labels: np.ndarray
    raw_labels: np.ndarray
    n_perturbations: np.ndarray
    dose: sp.csr_matrix
    library: np.ndarray
    covariate: np.ndarray
    qc: np.ndarray
    covariates: tuple[str, ...] = ()
    quality: tuple[str, ...] = ()
    separator: str | None = "+"
    counts: bool = True
    unique: bool = field(default=False)  # True once every distinct name has a column of its own
    twin: Any = None
    controls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.x, OnDisk) and self.x.dtype.kind in "biu":  # sums of bytes would wrap around
            object.__setattr__(self, "x", self.x.astype(np.float32))

    @classmethod
    def from_anndata(
        cls,
        adata: Any,
        perturbation: str = "perturbation",
        control: str | Sequence[str] | None = "control",
        separator: str | None = "+",
        layer: str | None = None,
        covariates: str | Sequence[str] = (),
        dose: str | None = None,
        quality: str | Sequence[str] | None = None,
        counts: bool = True,
    ) -> PerturbationData:
        """Read and check an AnnData: dense, CSR or CSC, in memory or backed (read in blocks of rows).

        A CSR matrix on disk stays there, for data larger than memory: that of `anndata.read_h5ad(path, backed="r")`, or
        an `anndata.io.sparse_dataset` of HDF5 or zarr as X or layer. Leave the file open; give the AnnData itself, not
        a view, and choose cells and genes of the result; `to_memory` reads them. All other matrices are held in memory.

        perturbation: column of `adata.obs` with names such as "KLF1", "KLF1+MAP2K6" or the control label. The
            parts of a name are sorted and controls among them dropped; `names` reports every name that was
            changed. A gene named twice ("A+A") is an error: name it once and say how much of it with `dose`.
        control: label of unperturbed cells, or several, such as those of non-targeting guides, which all become the
            first; None for an experiment without any. A part of a name is a control if it is one of these labels.
        separator: text between the parts of a combination, None if names are never split. A name that it cuts into
            something that is no name ("(+)-JQ1") is an error.
        layer: layer that holds the counts, `adata.X` if None.
        covariates: categorical columns of obs, one-hot encoded as "column=level"; 1,000 levels at most, and fewer in
            small data.
        dose: column of obs with amounts above zero. A number counts for every gene of the cell's name; a text
            such as "0.5+1.0" has one number a part, in the order the name was written. Default: 1 each.
            Controls' are ignored.
        quality: column or columns of 0/1 flags, 1 marks a cell of poor quality.
        counts: False for real values (Normal likelihood): only NaN and infinite values are refused,
            library is 1.

        What is likely a mistake is logged as a warning: perturbations that look like controls or differ only in case,
        parts of combinations that never occur alone, control labels without cells. Raises `DataError` (a ValueError)
        for anything that cannot be modelled, with the remedy.
        """
        check_anndata(adata, "from_anndata")
        if separator == "":
            raise DataError("The separator is an empty text; give the text between names, or None if there is none.")
        names = read_naming(control, separator)
        if not adata.n_vars:
            raise DataError("The AnnData has no genes (0 columns); select at least one gene.")
        if adata.n_obs < 2:
            raise DataError(f"The AnnData has {count_cells(adata.n_obs)}; at least 2 are needed.")
        genes, cells = unique_names(adata.var_names, "gene", "var"), unique_names(adata.obs_names, "cell", "obs")
        flags = column_names(quality, "quality flag")
        raw = read_labels(adata, perturbation, names)
        amounts = None if dose is None else column_of(adata, dose)
        check_controls(names, perturbation, raw)
        perturbations, labels, doses = encode_names(names, perturbation, raw, dose, amounts)
        covariate, levels = read_covariates(adata, column_names(covariates, "covariate"))
        x, total = read_matrix(adata, layer, counts)
        data = cls(
            x=x,
            genes=tuple(genes),
            cells=cells,
            perturbations=perturbations,
            control=names.control,
            labels=labels,
            raw_labels=raw,
            n_perturbations=np.diff(doses.indptr),
            dose=doses,
            library=total if counts else np.ones(adata.n_obs),
            covariate=covariate,
            qc=read_flags(adata, flags),
            covariates=levels,
            quality=flags,
            separator=separator,
            counts=counts,
            controls=() if names.control is None else (names.control, *names.others),
        )
        if counts and (empty := int((data.library == 0).sum())):
            matrix = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
            remedy = f"adata = adata[np.asarray({matrix}.sum(1)).ravel() > 0].copy()"
            raise DataError(f"{count_cells(empty)} of {len(data)} have no counts; drop them: {remedy}")
        for doubt in _doubts(data):
            LOG.warning(doubt)
        return data

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape

    def __repr__(self) -> str:
        controls = (
            "no controls"
            if self.control is None
            else f"{count_cells(int((self.n_perturbations == 0).sum()))} of control"
        )
        kinds = len(self.conditions())
        return (
            f"PerturbationData: {len(self)} cells x {len(self.genes)} genes, "
            f"{len(self.perturbations)} perturbations in {kinds} conditions, {controls}"
        )

    @property
    def naming(self) -> Names:
        """How these data's perturbations are named: what "B+A" or a control's label means here."""
        return Names(self.control, self.separator, self.controls[1:])

    def _positions(self, rows: Any, names: Sequence[str] | np.ndarray, of: str) -> np.ndarray:
        """Slice, mask or integers as an integer array; an IndexError of numpy's if out of range."""
        size = len(names)
        if isinstance(rows, slice):
            return np.arange(size)[rows]
        mask = pd.api.types.is_bool_dtype(rows) if isinstance(rows, pd.Series) else False
        at = np.atleast_1d(in_order(rows, names, of) if mask else np.asarray(rows))
        if at.dtype == bool and at.shape != (size,):
            raise DataError(f"The mask has {len(at)} values for {size} {of}; it needs one each.")
        if at.size and at.dtype.kind not in "biu" or at.ndim > 1:
            raise DataError(f"The {of} are chosen by positions, a mask or a slice, not by {at.dtype} values.")
        if at.dtype != bool and len(at) == size > 2 and at.min() >= 0 and at.max() <= 1:
            raise DataError(f"The {of} are given a 0 or 1 each, which would be positions; for a mask give values == 1.")
        return np.arange(size)[at.astype(int) if not at.size else at]

    def __getitem__(self, rows: Any) -> PerturbationData:
        """The chosen cells (positions, mask or slice) with all columns kept. A mask that is a Series goes by the names
        in its index."""
        if isinstance(rows, tuple):
            raise DataError("data[...] takes one list, mask or slice of cells; data.select_genes chooses genes.")
        at = self._positions(rows, self.cells, "cells")
        per_cell = ("cells", "labels", "raw_labels", "n_perturbations", "dose", "library", "covariate", "qc")
        twin = None if self.twin is None else self.twin[at]
        x = self.x.select(at) if isinstance(self.x, OnDisk) else self.x[at]
        return replace(self, x=x, twin=twin, **{name: getattr(self, name)[at] for name in per_cell})

    def to_memory(self) -> PerturbationData:
        """The same cells with x in memory. Raises OSError where x is on disk and its file cannot be read."""
        return replace(self, x=self.x[:]) if isinstance(self.x, OnDisk) else self

    def batch(self, rows: Any = slice(None), dtype: torch.dtype = torch.float32) -> Batch:
        """The chosen cells as dense tensors: x (b, G), their condition, and twin (b, G) if there is one."""
        at = self._positions(rows, self.cells, "cells")

        def dense(m: Any) -> Tensor:
            chosen = m[at]
            return torch.from_numpy(chosen.toarray() if sp.issparse(chosen) else np.ascontiguousarray(chosen)).to(dtype)

        condition = Condition(dense(self.dose), dense(self.library[:, None]), dense(self.covariate), dense(self.qc))
        return Batch(dense(self.x), condition, None if self.twin is None else dense(self.twin))

    def batches(self, size: int, dtype: torch.dtype = torch.float32) -> Iterator[Batch]:
        """All cells in order, `size` at a time; the last batch may be smaller. Raises DataError for a size
        below 1."""
        if size < 1:
            raise DataError(f"The batch size is {size}; it must be at least 1.")
        return (self.batch(slice(at, at + size), dtype) for at in range(0, len(self), size))

    @property
    def names(self) -> pd.DataFrame:
        """The report of names: index raw label, columns canonical label and number of cells."""
        table = pd.DataFrame({"raw": self.raw_labels, "canonical": self._names})
        return table.groupby(["raw", "canonical"]).size().rename("cells").reset_index("canonical")

    @property
    def n_treated(self) -> np.ndarray:
        """(T,) cells with a non-zero dose of each perturbation."""
        return np.asarray((self.dose != 0).sum(0)).ravel().astype(int)

    def conditions(self) -> pd.DataFrame:
        """A row a condition (control first), by its label: number of cells and of perturbations in its name."""
        table = pd.DataFrame({"label": self.labels, "perturbations": self.n_perturbations})
        table = table.groupby("label").agg(cells=("perturbations", "size"), perturbations=("perturbations", "first"))
        return table.sort_values("perturbations", kind="stable")

    def dose_of(self, label: str | Mapping[str, float]) -> Tensor:
        """(1, T) dose of a condition by name, in any order of its parts, seen or not, such as "B+A" or "A=0.5+B"; or of
        amounts by perturbation, such as {"A": 0.5, "B": 2}.

        The label of a condition of the data means that condition. Any other name without doses means the commonest dose
        among the cells of that name; where there are none (a new combination), and for parts without a dose beside
        others that have one, it is each part's commonest non-zero dose, 1 if there is none. Raises DataError for a name
        with unknown parts.
        """
        if isinstance(label, Mapping):
            for p, d in label.items():
                if not (isinstance(d, Real) and np.isfinite(d) and d >= 0):
                    raise DataError(f"The dose of {p!r} is {d!r}; give a finite number, 0 or above.")
            each = [float(d) * (self.dose_of(p) != 0) for p, d in label.items()]
            return torch.cat([torch.zeros(1, len(self.perturbations)), *each]).sum(0, keepdim=True)
        if not isinstance(label, str):
            parts = map(str, label) if isinstance(label, Sequence) else ("A", "B")
            combined = (self.separator or "+").join(parts)
            raise DataError(f"{label!r} is no name of a condition; a combination is one text, such as {combined!r}.")
        names = self.naming
        name = names.canonical(label)
        read = [name] if name in self._column_of or self.unique else names.genes(name)
        read_parts = [self._part(part) for part in read]
        parts, amounts = [part for part, _ in read_parts], [amount for _, amount in read_parts]
        row = np.zeros((1, len(self.perturbations)), dtype=np.float32)
        if name == self.control:
            return torch.from_numpy(row)
        if unknown := [p for p in parts if p not in self._column_of]:
            known = "one of the conditions that have a column" if self.unique else "one of data.perturbations"
            hint = did_you_mean(unknown[0], self.perturbations) or "."
            raise DataError(f"{unknown[0]!r} in {label!r} is not {known}{hint}")
        if len(set(parts)) < len(parts):
            raise DataError(f"{label!r} names a perturbation twice; name it once.")
        columns = [self._column_of[p] for p in parts]
        if not any(amounts) and (cells := self._cells_of.get(names.condition(dict.fromkeys(parts, 1.0)))) is not None:
            row[0, columns] = self.dose[cells[:1]][:, columns].toarray()[0]
        elif not any(amounts) and (cells := self._cells_named.get(name)) is not None:
            seen, times = np.unique(self.dose[cells][:, columns].toarray(), axis=0, return_counts=True)
            row[0, columns] = seen[times.argmax()]
        else:
            for column, amount in zip(columns, amounts, strict=True):
                seen, times = np.unique(self._dose_by_column[:, [column]].data, return_counts=True)
                row[0, column] = amount or (seen[times.argmax()] if len(seen) else 1)
        return torch.from_numpy(row)

    def _part(self, part: str) -> tuple[str, float | None]:
        """A perturbation and its dose, of "A=0.5" or, without a dose, of "A"."""
        name, _, amount = part.rpartition("=")
        if part in self._column_of or name not in self._column_of:
            return part, None
        try:
            dose = float(amount)
        except ValueError:
            dose = np.nan
        if not (np.isfinite(dose) and dose > 0):
            raise DataError(f"The dose in {part!r} is {amount!r}; give a finite number above 0, such as '{name}=0.5'.")
        return name, dose

    @cached_property
    def _column_of(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.perturbations)}

    @cached_property
    def _cells_of(self) -> dict[str, np.ndarray]:
        """Label -> positions of its cells, found once for all conditions."""
        return pd.Series(self.labels).groupby(self.labels).indices

    @cached_property
    def _names(self) -> np.ndarray:
        """(n,) each cell's canonical name, whatever its doses."""
        kinds, codes = np.unique(self.raw_labels.astype(str), return_inverse=True)
        return np.array([self.naming.canonical(raw) for raw in kinds], dtype=object)[codes]

    @cached_property
    def _cells_named(self) -> dict[str, np.ndarray]:
        """Name -> positions of its cells, whatever their doses."""
        return pd.Series(self._names).groupby(self._names).indices

    @cached_property
    def _dose_by_column(self) -> sp.csc_matrix:
        return self.dose.tocsc()

    def levels_of(self, given: Sequence[str]) -> Tensor:
        """(1, C) one-hot row with one level of every covariate, such as ["line=K562"].

        Raises DataError for a level that is unknown, missing or given twice.
        """
        if isinstance(given, str):
            raise DataError(f"The levels are one text, {given!r}; give a list of levels: [{given!r}].")
        for level in given:
            if level not in self.covariates:
                known = f"; the levels are {', '.join(self.covariates) or 'none'}."
                raise DataError(
                    f"{level!r} is no level of the data's covariates{did_you_mean(level, self.covariates) or known}"
                )
        asked, there = ([name.split("=")[0] for name in names] for names in (given, self.covariates))
        if len(asked) != len(set(there)) or set(asked) != set(there):
            raise DataError(f"The query has levels of {asked}; give one level of each of {sorted(set(there))}.")
        return torch.tensor([[float(name in given) for name in self.covariates]])

    def describe(self, dose: Any, levels: Any = ()) -> str:
        """ "A+B" at dose 1 each, "A=0.5+B" otherwise, with the covariates' levels in brackets; the inverse of `dose_of`
        and `levels_of`."""
        name = self.naming.condition(dict(zip(self.perturbations, map(float, dose), strict=True)))
        chosen = [level for level, on in zip(self.covariates, levels, strict=False) if on]
        return f"{name} [{', '.join(chosen)}]" if chosen else name

    def encode_unique(self) -> PerturbationData:
        """The same cells with one column a distinct label, so that a combination is a perturbation of its
        own.

        This is the published encoding of combinations as unique treatments; each dose of a perturbation is one of its
        own too. Encode before splitting, so that all parts share their columns.
        """
        if self.unique:
            return self
        treated = np.flatnonzero(self.n_perturbations)
        kinds, codes = np.unique(self.labels[treated].astype(str), return_inverse=True)
        ones = np.ones(len(treated), dtype=np.float32)
        dose = sp.csr_matrix((ones, (treated, codes)), shape=(len(self), len(kinds)))
        return replace(self, perturbations=tuple(map(str, kinds)), dose=dose, unique=True)

    def genes_seen(self, cells: int = 3) -> np.ndarray:
        """(G,) which genes have a non-zero value in at least `cells` cells."""
        seen = [np.asarray((block != 0).sum(0)).ravel() for _, block in row_blocks(self.x)]
        return np.sum(seen, axis=0) >= cells

    def select_genes(self, mask: Any) -> PerturbationData:
        """The chosen genes (names, mask, positions or slice) of all cells, libraries counted again over these genes.

        A mask that is a Series, such as adata.var["highly_variable"], goes by the names in its index. Raises DataError
        for unknown genes and for a gene twice, where no gene is left, and where cells lose their last count.
        """
        given = np.atleast_1d(np.asarray(mask))
        if given.dtype.kind in "UO" and all(isinstance(g, str) for g in given):
            index = pd.Index(self.genes)
            if unknown := [g for g in given if g not in index]:
                hint = did_you_mean(unknown[0], self.genes) or "."
                raise DataError(f"{len(unknown)} of the genes are not in the data ({quoted(unknown, 3)}){hint}")
            mask = index.get_indexer(given)
        at = self._positions(mask, self.genes, "genes")
        if not len(at):
            raise DataError("No gene is selected; the mask is False everywhere.")
        if len(set(at)) < len(at):
            raise DataError(f"{len(at) - len(set(at))} genes are selected more than once; select each once.")
        x = self.x.select(genes=at) if isinstance(self.x, OnDisk) else self.x[:, at]
        library = np.concatenate([row_totals(block) for _, block in row_blocks(x)]) if self.counts else self.library
        if empty := int((library == 0).sum()):
            blocks = "np.vstack([x[:, mask].sum(1) for _, x in data.x.blocks()])"
            sums = blocks if isinstance(x, OnDisk) else "data.x[:, mask].sum(1)"
            remedy = f"keep more genes, or first data = data[np.asarray({sums}).ravel() > 0]"
            raise DataError(f"{count_cells(empty)} have no counts on the {len(at)} selected genes; {remedy}")
        twin = None if self.twin is None else self.twin[:, at]
        return replace(self, x=x, genes=tuple(self.genes[i] for i in at), library=library, twin=twin)

    def split(
        self, splitter: Callable[[PerturbationData], np.ndarray] | Sequence[str] | np.ndarray | pd.Series
    ) -> tuple[PerturbationData, PerturbationData, PerturbationData]:
        """Train, validation and test cells; `splitter` (see `samslib.splits`) says "train", "val", "test" or
        "" a cell, or these words are given themselves, such as adata.obs["split"]: a Series goes by the names in its
        index.

        The number of cells left out is logged. Raises DataError for another word or a part of fewer than two
        cells.
        """
        part = split_words(self, splitter)
        if dropped := int((part == "").sum()):
            LOG.warning("%s of %d are in no part of this split", count_cells(dropped), len(self))
        train, val, test = (self[part == name] for name in ("train", "val", "test"))
        return train, val, test

    def summary(self, train: PerturbationData | None = None, pseudobulk: bool = False) -> DataSummary:
        """What a model must know: names, and the statistics and counts of the training cells (default: all of
        these).

        Means and sample standard deviations (ddof 1) are accumulated in float64 over blocks of rows; a gene
        that does not vary gets 1. Real values of -1 or below have no log(1 + x): their log statistics are
        NaN. `pseudobulk` adds the counts summed by condition, from which the closed-form baselines are made; they
        are saved with a model. Raises DataError if `train` has other genes or columns than these data, or for the
        pseudobulk of real values.
        """
        train = self if train is None else check_data(train, "summary")
        columns = ("genes", "perturbations", "covariates", "quality")
        if other := [name for name in columns if getattr(self, name) != getattr(train, name)]:
            raise DataError(
                f"The training cells have other {' and '.join(other)} than the data; use a part of the data."
            )
        if len(train) < 2:
            raise DataError(f"The training split has {count_cells(len(train))}; at least 2 are needed.")
        mean, std, log_mean, log_std = map(torch.tensor, gene_moments(train.x))
        statistics = [value.to(torch.get_default_dtype()) for value in (mean, std, log_mean, log_std)]
        return DataSummary(
            genes=self.genes,
            perturbations=self.perturbations,
            covariates=self.covariates,
            quality=self.quality,
            n_cells=len(train),
            n_treated=tuple(map(int, train.n_treated)),
            n_flagged=tuple(map(int, train.qc.sum(0))),
            mean=statistics[0],
            std=statistics[1],
            log_mean=statistics[2],
            log_std=statistics[3],
            control=self.control,
            counts=self.counts,
            unique=self.unique,
            pseudobulk=train._pseudobulk() if pseudobulk else None,
        )

    def digest(self) -> dict[str, str]:
        """What tells these data from others, by what it is of: their number and the start of a sha256 of the names and
        values. Of the matrix, the sums of each cell and of each gene count; it is read once."""

        def of(number: int, *parts: Any) -> str:
            total = hashlib.sha256()
            for part in parts:
                names = isinstance(part, tuple) or part.dtype == object
                total.update("\0".join(map(str, part)).encode() if names else part.tobytes())
            return f"{number} ({total.hexdigest()[:12]})"

        sums = row_product(sp.csr_matrix(np.ones((1, len(self)))), self.x).astype(np.float32)
        doses = self.dose.tocsr(copy=True)
        doses.sort_indices()
        return {
            "cells": of(len(self), self.cells),
            "genes": of(len(self.genes), self.genes),
            "perturbations": of(len(self.perturbations), self.perturbations),
            "covariates": of(len(self.covariates), self.covariates, self.covariate),
            "quality flags": of(len(self.quality), self.quality, self.qc),
            "doses": of(doses.nnz, doses.indptr.astype(np.int64), doses.indices.astype(np.int64), doses.data),
            "values": of(self.x.shape[1], sums, self.library.astype(np.float32)),
        }

    def _pseudobulk(self) -> Pseudobulk:
        """Sums by condition. The concentration c solves E[(x - m)^2] = E[m] + E[m^2] / c over cells, m a cell's
        library times its condition's share; it is kept within 0.01 and 100, the value where nothing is left for it."""
        if not self.counts:
            raise DataError("Real values have no pseudobulk; make the data of counts, or leave pseudobulk=False.")
        code, names = pd.factorize(self.labels, sort=True)
        of = sp.csr_matrix((np.ones(len(self)), (code, np.arange(len(self)))), (len(names), len(self)))
        counts, cells = row_product(of, self.x), np.bincount(code)
        share = counts / counts.sum(1, keepdims=True)
        second = (of @ self.library**2) @ share**2
        cross = (row_product(of.multiply(self.library).tocsr(), self.x) * share).sum(0)
        squares = sum(
            np.asarray(block.multiply(block).sum(0, dtype=np.float64)).ravel() for _, block in row_blocks(self.x)
        )
        left = squares - 2 * cross + second - counts.sum(0)
        concentration = np.divide(second, left, out=np.full_like(left, 100.0), where=left > 0).clip(0.01, 100)
        parts = counts, (of @ self.dose).toarray() / cells[:, None], cells, concentration
        return Pseudobulk(*(torch.as_tensor(part).to(torch.get_default_dtype()) for part in parts))


def check_data(value: Any, where: str) -> PerturbationData:
    """`value`, if it is a PerturbationData; else a DataError that says what `where` needs."""
    if not isinstance(value, PerturbationData):
        remedy = "samslib.PerturbationData.from_anndata(adata) makes one"
        raise DataError(f"{where} needs a PerturbationData, not a {type(value).__name__}; {remedy}.")
    return value


def split_words(data: PerturbationData, split: Any) -> np.ndarray:
    """(n,) "train", "val", "test" or "" of each cell: a splitter's words, or those given, a Series by its index.

    Raises DataError for another word, a part of fewer than two cells, or words that are not one a cell.
    """
    found = split(data) if callable(split) else split
    return check_split(np.atleast_1d(in_order(found, data.cells, "cells")), len(data))


def check_split(part: np.ndarray, cells: int) -> np.ndarray:
    """A split's words, if there is one a cell, all are known and no part is too small; else a DataError."""
    if part.shape != (cells,):
        remedy = "it needs one each, or a splitter such as samslib.splits.random()"
        raise DataError(f"The split has {len(part)} labels for {count_cells(cells)}; {remedy}.")
    if unknown := sorted(set(part.tolist()) - {"train", "val", "test", ""}, key=str):
        raise DataError(
            f'The split has labels {quoted(unknown)}; they must be "train", "val", "test" or "" (left out).'
        )
    for name in ("train", "val", "test"):
        if (size := int((part == name).sum())) < 2:
            raise DataError(
                f"The {name} split has {count_cells(size)}; at least 2 are needed: change the shares or add cells."
            )
    return part


def _doubts(data: PerturbationData) -> Iterator[str]:
    """What was read but is likely not what was meant, and what was renamed: a sentence each."""
    names, table = data.naming, data.names
    changed = table["canonical"][table.index != table["canonical"]]
    if len(changed):
        example = "; ".join(f"{raw!r} is now {new!r}" for raw, new in changed.head(3).items())
        merged = len(table) - table["canonical"].nunique()
        yield (
            f"{len(changed)} of {len(table)} perturbation names rewritten ({example}), {merged} merged with another; "
            "data.names has all"
        )
    found = {part for raw in table.index for part in names.parts(raw)}
    if absent := [label for label in data.controls if names.parts(label)[0] not in found]:
        yield f"No cell is labelled {quoted(absent)}, as controls were said to be"
    pieces = {piece for run in names.controls.values() for piece in run}
    if likely := [p for p in data.perturbations if LIKE_CONTROL.fullmatch(p) or p in pieces]:
        remedy = f"if they are, pass control=[{quoted([*data.controls, *likely], 12)}]"
        yield f"Perturbations that look like controls: {quoted(likely)}; {remedy}"
    lower = pd.Series(data.perturbations, index=[p.casefold() for p in data.perturbations])
    if alike := list(lower[lower.index.duplicated(keep=False)].sort_index()):
        yield f"Perturbations that differ only in case: {quoted(alike)}; if they are the same, write them in one way"
    if (data.n_perturbations > 1).any():
        alone = set(data._names[data.n_perturbations == 1])
        if never := [p for p in data.perturbations if p not in alone]:
            example = next(raw for raw in table.index if len(genes := names.genes(raw)) > 1 and not alone >= {*genes})
            remedy = f"if names such as {example!r} are no combinations, pass another separator, or separator=None"
            yield f"Perturbations that occur in combinations only: {quoted(never, 3)}; {remedy}"
    elif names.separator and (other := other_separator(names, list(table.index))):
        yield f"No name holds {names.separator!r}, but {other[1]!r} looks like a combination: separator={other[0]!r}?"
