"""`PerturbationData`: cells of a perturbation screen, from an AnnData to the batches that a model reads.

Counts stay sparse (CSR, float32), in memory or on disk; only `PerturbationData.batch` makes some rows dense.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from samslib.cells import Batch, Condition, DataSummary
from samslib.data import reading
from samslib.data.disk import OnDisk
from samslib.data.messages import count_cells, did_you_mean, quoted
from samslib.data.names import Conditions, Names, doubts, read_naming
from samslib.data.statistics import condition_sums, digest, gene_moments, one_hot, row_blocks, row_totals
from samslib.validation import DataError, at_least, require

LOG = logging.getLogger("samslib")

PER_CELL = ("cells", "labels", "raw_labels", "n_perturbations", "dose", "library", "covariate", "qc", "twin")


@dataclass(frozen=True, eq=False, repr=False)
class PerturbationData:
    """Perturbed cells, ready for a model. `from_anndata` makes them.

    Parameters
    ----------
    x
        (n, G) counts as CSR float32, or real values as CSR or numpy, or either on disk (`samslib.data.disk.OnDisk`).
    genes, cells, perturbations
        Names of the G genes, n cells and T perturbations.
    control, controls
        The label of control cells, None without any; and all labels that were read as that one.
    labels, raw_labels
        (n,) name of each cell's condition, with doses other than 1 ("A=0.5+B"), and as it was written.
    n_perturbations, dose, library
        (n,) perturbations of each cell; (n, T) CSR doses, 0 in controls; (n,) total counts, 1 for real values.
    covariate, covariates
        (n, C) one-hot, and its "column=level" names.
    qc, quality
        (n, Q) flags, 1 a cell of poor quality; and their names.
    separator
        Text between the names of a combination; None if names are never split.
    counts, unique
        Whether x holds counts, and whether a combination is a perturbation of its own (`encode_unique`).
    targets
        (T,) the target (gene) of each perturbation, where perturbations are guides; else empty.
    twin
        (n, G) reference expression of each cell (`samslib.data.quality.with_twins`), or None.
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
    unique: bool = False
    twin: Any = None
    controls: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

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
        target: str | Mapping[str, str] | pd.Series | Callable[[str], str] | None = None,
    ) -> PerturbationData:
        """Read and check an AnnData; likely mistakes in names are logged as warnings.

        Parameters
        ----------
        adata
            Cells by genes; dense, CSR or CSC, in memory or backed. A CSR matrix in a file (HDF5 or zarr, also as
            `anndata.io.sparse_dataset`) stays there unless it is a view; leave the file open.
        perturbation
            Column of `adata.obs` with names such as "KLF1", "KLF1+MAP2K6" or a control label. Parts are sorted and
            controls among them dropped; `names` reports what was changed.
        control
            Label of control cells, or several, which all become the first; None without controls.
        separator
            Text between the parts of a combination; None if names are never split.
        layer
            Layer that holds the counts; None for `adata.X`.
        covariates
            Categorical columns of obs, one-hot encoded; at most 1,000 levels each, fewer in small data.
        dose
            Column of obs with amounts above 0: a number for every part of the name, or a text such as "0.5+1.0" with
            one a part, in the order written. None for 1 each.
        quality
            Columns of 0/1 flags; 1 marks a cell of poor quality.
        counts
            False for real values (Normal likelihood), which only have to be finite.
        target
            The target (gene) of each perturbation, where perturbations are guides: a mapping (dict or Series) or
            function from guide to target; or a column of obs, of which the cells with a single perturbation count. None
            where they have none.

        Raises
        ------
        DataError
            For anything that cannot be modelled, with the remedy.
        """
        reading.check_anndata(adata, "from_anndata")
        names = read_naming(control, separator)
        fields = reading.read_axes(adata) | reading.read_names(adata, names, perturbation, dose)
        fields |= reading.read_covariates(adata, covariates) | reading.read_flags(adata, quality)
        fields |= reading.read_targets(adata, target, fields)
        x, library = reading.read_matrix(adata, layer, counts)
        kept = f"np.asarray({reading.matrix_name(layer)}.sum(1)).ravel() > 0"
        _check_library(library, "", f"drop them: adata = adata[{kept}].copy()")
        data = cls(x=x, library=library, counts=counts, separator=separator, **fields)
        for doubt in doubts(names, data.names):
            LOG.warning(doubt)
        return data

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and genes."""
        return self.x.shape

    def __repr__(self) -> str:
        controls = "no" if self.control is None else f"{count_cells(int((self.n_perturbations == 0).sum()))} of"
        kinds = f"guides of {len(set(self.targets))} targets" if self.targets else "perturbations"
        known = f"{len(self.perturbations)} {kinds} in {len(self.conditions())} conditions"
        return f"PerturbationData: {len(self)} cells x {len(self.genes)} genes, {known}, {controls} control"

    @property
    def naming(self) -> Names:
        """How perturbations are named here: what "B+A" or a control's label means."""
        return Names(self.controls, self.separator)

    @cached_property
    def _conditions(self) -> Conditions:
        return Conditions(self)

    def __getitem__(self, rows: Any) -> PerturbationData:
        """The chosen cells (positions, mask or slice) with all columns; a mask that is a Series goes by its index."""
        if isinstance(rows, tuple):
            raise DataError("data[...] takes one list, mask or slice of cells; data.select_genes chooses genes.")
        at = positions(rows, self.cells, "cells")
        x = self.x.select(at) if isinstance(self.x, OnDisk) else self.x[at]
        return replace(self, x=x, **{n: getattr(self, n)[at] for n in PER_CELL if getattr(self, n) is not None})

    def to_memory(self) -> PerturbationData:
        """The same cells with x in memory. Raises OSError where x is on disk and its file cannot be read."""
        return replace(self, x=self.x[:]) if isinstance(self.x, OnDisk) else self

    def batch(self, rows: Any = slice(None), dtype: torch.dtype = torch.float32) -> Batch:
        """The cells `rows` (positions, mask or slice; default all) as dense tensors of type `dtype`."""
        at = positions(rows, self.cells, "cells")
        parts = (self.dose, self.library[:, None], self.covariate, self.qc)
        condition = Condition(*(_dense(part[at], dtype) for part in parts))
        twin = None if self.twin is None else _dense(self.twin[at], dtype)
        return Batch(_dense(self.x[at], dtype), condition, twin)

    def batches(self, size: int, dtype: torch.dtype = torch.float32) -> Iterator[Batch]:
        """All cells in order, `size` (1 or above) at a time, the last batch maybe fewer, as tensors of type `dtype`."""
        at_least(1, size=size)
        return (self.batch(slice(at, at + size), dtype) for at in range(0, len(self), size))

    @property
    def names(self) -> pd.DataFrame:
        """The report of names: index raw label, columns canonical label and number of cells."""
        return self._conditions.report

    @property
    def n_treated(self) -> np.ndarray:
        """(T,) cells with a non-zero dose of each perturbation."""
        return np.asarray((self.dose != 0).sum(0)).ravel().astype(int)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Numbers (a, b), a < b, of the perturbations that some cell has both of."""
        on = sp.csr_matrix(self.dose[self.n_perturbations > 1] != 0, dtype=np.int32)
        return tuple(sorted(zip(*map(np.ndarray.tolist, sp.triu(on.T @ on, 1).nonzero()), strict=True)))

    def conditions(self) -> pd.DataFrame:
        """A row a condition (control first), by its label: number of cells and of perturbations in its name."""
        groups = pd.Series(self.n_perturbations).groupby(pd.Index(self.labels, name="label"))
        return groups.agg(cells="size", perturbations="first").sort_values("perturbations", kind="stable")

    def dose_of(self, label: str | Mapping[str, float]) -> torch.Tensor:
        """(1, T) dose of a condition, seen or not.

        Parameters
        ----------
        label
            A name, its parts in any order, such as "B+A" or "A=0.5+B"; or amounts, such as {"A": 0.5, "B": 2}. Without
            amounts, a name is the condition of that label if there is one; else it gets the commonest dose among
            cells of that name, or of each part (1 where there is none).

        Raises
        ------
        DataError
            For a name with unknown or repeated parts, and for amounts that are no doses.
        """
        return torch.from_numpy(self._conditions.dose_of(label))

    def levels_of(self, given: Sequence[str]) -> torch.Tensor:
        """(1, C) one-hot row of one level of every covariate, such as ["line=K562"]; DataError if they are not that."""
        require(not isinstance(given, str), f"The levels are one text; give a list of levels: [{given!r}].", DataError)
        if unknown := [level for level in given if level not in self.covariates]:
            hint = did_you_mean(unknown[0], self.covariates) or f"; the levels are {quoted(self.covariates) or 'none'}."
            raise DataError(f"{unknown[0]!r} is no level of the data's covariates{hint}")
        asked, there = (sorted(name.split("=")[0] for name in names) for names in (given, self.covariates))
        if asked != sorted(set(there)):
            raise DataError(f"The query has levels of {asked}; give one level of each of {sorted(set(there))}.")
        return torch.tensor([[float(name in given) for name in self.covariates]])

    def describe(self, dose: Any, levels: Any = ()) -> str:
        """Name of a (T,) dose, with (C,) one-hot covariate levels in brackets; the inverse of `dose_of` and
        `levels_of`."""
        name = self.naming.condition(dict(zip(self.perturbations, map(float, dose), strict=True)))
        chosen = [level for level, on in zip(self.covariates, levels, strict=False) if on]
        return f"{name} [{', '.join(chosen)}]" if chosen else name

    def target_of(self, label: str | Mapping[str, float]) -> str:
        """The condition of targets that a condition of guides is: "P1_a+P2_b=2" is "P1+P2=2", as `dose_of` reads it.
        Raises DataError where perturbations have no targets, and for what is no condition."""
        if not self.targets:
            raise DataError("The perturbations have no targets; give them to from_anndata(target=).")
        doses = zip(self.targets, self.dose_of(label)[0].tolist(), strict=True)
        return self.naming.joined(sorted(self.naming.condition({target: dose}) for target, dose in doses if dose))

    def encode_unique(self) -> PerturbationData:
        """The same cells with a column for each distinct label, so that a combination is a perturbation of its own,
        as published for the non-compositional encoding. Encode before splitting: then all parts share columns. Targets
        are dropped, for a combination has several."""
        if self.unique:
            return self
        codes, labels = pd.factorize(pd.Series(self.labels).where(self.n_perturbations > 0), sort=True)
        return replace(self, perturbations=tuple(labels), dose=one_hot(codes, len(labels)), unique=True, targets=())

    def genes_seen(self, cells: int = 3) -> np.ndarray:
        """(G,) which genes have a non-zero value in at least `cells` cells."""
        seen = [np.asarray((block != 0).sum(0)).ravel() for _, block in row_blocks(self.x)]
        return np.sum(seen, axis=0) >= cells

    def select_genes(self, mask: Any) -> PerturbationData:
        """All cells with the genes `mask` (names, mask, positions or slice; a mask that is a Series goes by its index),
        libraries counted again. Raises DataError for unknown or repeated genes, and where cells lose all counts."""
        at = gene_positions(mask, self.genes)
        x = self.x.select(genes=at) if isinstance(self.x, OnDisk) else self.x[:, at]
        library = np.concatenate([row_totals(block) for _, block in row_blocks(x)]) if self.counts else self.library
        kept = "data[np.concatenate([batch.x[:, mask].sum(1) for batch in data.batches(1000)]) > 0]"
        _check_library(library, f" on the {len(at)} selected genes", f"keep more genes, or first data = {kept}")
        twin = None if self.twin is None else self.twin[:, at]
        return replace(self, x=x, genes=tuple(self.genes[i] for i in at), library=library, twin=twin)

    def split(self, splitter: Split) -> tuple[PerturbationData, PerturbationData, PerturbationData]:
        """Train, validation and test cells; the number of cells left out is logged.

        Parameters
        ----------
        splitter
            One of `samslib.data.splits`, or the (n,) labels themselves: "train", "val", "test" or "" (left out). A
            Series goes by its index. Raises DataError for other labels and parts of fewer than two cells.
        """
        part = split_labels(self, splitter)
        if dropped := int((part == "").sum()):
            LOG.warning("%s of %d are in no part of this split", count_cells(dropped), len(self))
        return self[part == "train"], self[part == "val"], self[part == "test"]

    def summary(self, train: PerturbationData | None = None, pseudobulk: bool = False) -> DataSummary:
        """What a model must know: names, and statistics of training cells (sample standard deviations; 1 for a gene
        that does not vary; NaN for log(1 + x) of real values of -1 or below).

        Parameters
        ----------
        train
            Training cells, a part of these data; None for all.
        pseudobulk
            Whether to add the counts summed by condition, which the closed-form baselines need.

        Raises
        ------
        DataError
            For training cells with other columns than the data or fewer than 2, and for the pseudobulk of real values.
        """
        train = self if train is None else check_data(train, "summary")
        text = f"There are {len(self.targets)} targets of {len(self.perturbations)} perturbations; give one each."
        require(len(self.targets) in (0, len(self.perturbations)), text, DataError)
        columns = ("genes", "perturbations", "targets", "covariates", "quality")
        if other := [name for name in columns if getattr(self, name) != getattr(train, name)]:
            raise DataError(f"The training cells have other {' and '.join(other)} than the data; take a part of them.")
        require(len(train) > 1, f"The training split has {count_cells(len(train))}; at least 2 are needed.", DataError)
        require(self.counts or not pseudobulk, "Real values have no pseudobulk; leave pseudobulk=False.", DataError)
        fields: dict[str, Any] = {name: getattr(self, name) for name in (*columns, "control", "counts", "unique")}
        fields |= gene_moments(train.x) | {"n_cells": len(train)}
        fields["pairs"] = train.pairs
        fields["largest_dose"] = tuple(map(float, train.dose.max(0).toarray()[0]))
        treated, flagged = (tuple(map(int, counted)) for counted in (train.n_treated, train.qc.sum(0)))
        sums = condition_sums(train.x, train.labels, train.dose, train.library) if pseudobulk else None
        return DataSummary(**fields, n_treated=treated, n_flagged=flagged, pseudobulk=sums)

    def digest(self) -> dict[str, str]:
        """What tells these data from others: number and hash of each kind of names and values; see
        `samslib.data.statistics.digest`."""
        return digest(self)


def _dense(values: Any, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(values.toarray() if sp.issparse(values) else np.ascontiguousarray(values)).to(dtype)


Split: TypeAlias = Callable[[PerturbationData], np.ndarray] | Sequence[str] | np.ndarray | pd.Series


def check_data(value: Any, where: str) -> PerturbationData:
    """`value`, if it is a PerturbationData; else a DataError that says what `where` needs."""
    needed = f"{where} needs a PerturbationData, not a {type(value).__name__}; PerturbationData.from_anndata makes one."
    require(isinstance(value, PerturbationData), needed, DataError)
    return value


def split_labels(data: PerturbationData, split: Split) -> np.ndarray:
    """(n,) "train", "val", "test" or "" of each cell.

    Parameters
    ----------
    data
        n cells.
    split
        A splitter, or the labels, one a cell; a Series goes by its index.

    Raises
    ------
    DataError
        For another label, a part of fewer than two cells, or labels that are not one a cell.
    """
    part = np.atleast_1d(in_order(split(data) if callable(split) else split, data.cells, "cells"))
    if part.shape != (len(data),):
        remedy = "it needs one each, or a splitter such as samslib.splits.random()"
        raise DataError(f"The split has {len(part)} labels for {count_cells(len(data))}; {remedy}.")
    if unknown := sorted(set(part.tolist()) - {"train", "val", "test", ""}, key=str):
        raise DataError(f'The split has labels {quoted(unknown)}; they must be "train", "val", "test" or "".')
    for name in ("train", "val", "test"):
        if (size := int((part == name).sum())) < 2:
            raise DataError(f"The {name} split has {count_cells(size)}; at least 2 are needed: change the shares.")
    return part


def positions(chosen: Any, names: Sequence[str] | np.ndarray, of: str) -> np.ndarray:
    """Positions of chosen cells or genes.

    Parameters
    ----------
    chosen
        Slice, mask or integers; a mask that is a Series goes by the names in its index.
    names
        Names of all cells or genes.
    of
        What they are, for messages: "cells" or "genes".

    Raises
    ------
    DataError
        For a mask of another length, and for values that are neither positions nor a mask.
    IndexError
        For positions out of range.
    """
    size = len(names)
    chosen = np.arange(size)[chosen] if isinstance(chosen, slice) else chosen
    mask = isinstance(chosen, pd.Series) and pd.api.types.is_bool_dtype(chosen)
    at = np.atleast_1d(in_order(chosen, names, of) if mask else np.asarray(chosen))
    if at.dtype == bool:
        require(at.shape == (size,), f"The mask has {len(at)} values for {size} {of}; it needs one each.", DataError)
        return np.flatnonzero(at)
    whole = at.ndim == 1 and (at.dtype.kind in "iu" or not at.size)
    require(whole, f"The {of} are chosen by positions, a mask or a slice, not by {at.dtype} values.", DataError)
    if len(at) == size > 2 and at.min() >= 0 and at.max() <= 1:
        raise DataError(f"The {of} are given a 0 or 1 each, which would be positions; for a mask give values == 1.")
    return np.arange(size)[at.astype(int)]


def gene_positions(chosen: Any, genes: tuple[str, ...]) -> np.ndarray:
    """Positions of chosen genes, each once and at least one.

    Parameters
    ----------
    chosen
        Names, or what `positions` takes.
    genes
        Names of all genes.

    Raises
    ------
    DataError
        For unknown genes, a gene twice, and where no gene is left.
    """
    given = np.atleast_1d(np.asarray(chosen))
    if pd.api.types.infer_dtype(given) == "string":
        chosen = pd.Index(genes).get_indexer(given)
        if len(unknown := given[chosen < 0]):
            hint = did_you_mean(unknown[0], genes) or "."
            raise DataError(f"{len(unknown)} of the genes are not in the data ({quoted(unknown, 3)}){hint}")
    at = positions(chosen, genes, "genes")
    require(len(at), "No gene is selected; the mask is False everywhere.", DataError)
    require(len(set(at)) == len(at), "Some genes are selected more than once; select each once.", DataError)
    return at


def _check_library(library: np.ndarray, where: str, remedy: str) -> None:
    if empty := int((library == 0).sum()):
        raise DataError(f"{count_cells(empty)} of {len(library)} have no counts{where}; {remedy}")


def in_order(values: Any, names: Sequence[str] | np.ndarray, of: str) -> np.ndarray:
    """Values, one for each name, as an array.

    Parameters
    ----------
    values
        An array or list in the order of the names, or a Series, which goes by its index unless that is 0, 1, 2, ...
    names
        Of all cells or genes.
    of
        What they are, for messages: "cells" or "genes".

    Returns
    -------
    ndarray
        The values in the order of the names.

    Raises
    ------
    DataError
        For an index that lacks a name, or has one twice: in another order the values would be those of other cells.
    """
    if not isinstance(values, pd.Series) or values.index.equals(pd.RangeIndex(len(names))):
        return np.asarray(values)
    index = values.index.astype(str)
    at = index.get_indexer(pd.Index(names)) if index.is_unique else np.full(len(names), -1)
    if (at < 0).any():
        what = f"lacks {names[int(at.argmin())]!r}" if index.is_unique else "has a name twice"
        remedy = f"index it by the names of the {of}, or give the values in their order, .to_numpy()"
        raise DataError(f"The index of a Series for {len(names)} {of} {what}; {remedy}.")
    return values.to_numpy()[at]
