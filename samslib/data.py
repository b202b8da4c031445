"""From an AnnData of perturbed cells to the batches a model reads.

Counts stay sparse (CSR, float32), in memory or on disk; only `PerturbationData.batch` makes some rows dense. What is
wrong with the input is said before any model sees it, as a `DataError` that names the column or the number of
cells and what to do about it.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata.abc import CSCDataset, CSRDataset
from torch import Tensor

from samslib.cells import Batch, Condition, DataSummary, Pseudobulk
from samslib.disk import OnDisk, canonical

LOG = logging.getLogger("samslib")
BLOCK = 4_000_000  # entries made dense at a time while reading or averaging, 32 MB in float64
NOTHING = {"", "nan", "none", "null", "<na>", "na", "n/a"}  # how a missing label looks once it has been through a file
LEVELS = 1000  # of a covariate at most: each is a dense column
CONTROL = (
    r"(controls?|ctrls?|non?[\W_]*target(ing|ed)?|neg(ative)?(?=[\W_]*(control|ctrl))|ntc?(?![a-z])|intergenic"
    r"|scrambled?|safe[\W_]*(targeting|harbou?r)|un(perturbed|treated|stimulated)|dmso|vehicle|mock|pbs)"
)
LIKE_CONTROL = re.compile(  # NT_1, NegCtrl0, non-targeting_00012|non-targeting_00034; not the gene NT5C
    rf"(sg|grna|guide)?[\W_]*{CONTROL}([\W\d_]*({CONTROL}|guides?|cells?))*[\W\d_]*([acgt]{{10,}})?", re.IGNORECASE
)
PAIR = re.compile(r"\(\)|\[\]|\{\}")


class DataError(ValueError):
    """The input cannot be modelled as it is; the message says what to change."""


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _list(names: Sequence[Any], most: int = 6) -> str:
    """A few names quoted, for a message."""
    rest = len(names) - most
    return ", ".join(repr(str(n)) for n in names[:most]) + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """'; did you mean ...?' with the known name that looks most like `name`, or an empty string."""
    spelt = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(name).lower(), list(spelt), n=1, cutoff=0.5)
    close += [k for k in spelt if k.startswith(str(name).lower()) or str(name).lower().startswith(k)]
    return f"; did you mean {spelt[close[0]]!r}?" if name and close else ""


@dataclass(frozen=True)
class Names:
    """How perturbation names are read: parts between separators, sorted, without controls.

    control is the label that controls get, None if there are none, and `others` are labels that mean the same. A label
    is matched whole: "non+targeting" is one part wherever it stands, and neither "non" nor "targeting" is a control.
    Only a label that repeats itself, such as "ctrl+ctrl", makes its part "ctrl" a control as well.
    """

    control: str | None
    separator: str | None
    others: tuple[str, ...] = ()

    @cached_property
    def controls(self) -> dict[str, list[str]]:
        """Every label that means control, with its pieces, the longest first."""
        found = {}
        for label in () if self.control is None else (self.control, *self.others):
            pieces = self.cut(label)
            found[(self.separator or "").join(pieces)] = pieces
            if len(set(pieces)) == 1 and pieces[0]:
                found[pieces[0]] = pieces[:1]
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

    def cut(self, text: str) -> list[str]:
        """A text in pieces, blanks around them removed."""
        return [p.strip() for p in text.split(self.separator)] if self.separator else [text.strip()]

    def parts(self, raw: str) -> list[str]:
        """Every part of a name as written: its pieces, but a control's label in one."""
        pieces, found = self.cut(raw), []
        while pieces:
            part = next((run for run in self.controls.values() if pieces[: len(run)] == run), pieces[:1])
            found.append((self.separator or "").join(part))
            pieces = pieces[len(part) :]
        return found

    def is_control(self, part: str) -> bool:
        return part in self.controls

    def genes(self, raw: str) -> list[str]:
        """The perturbing parts of a name in the order written; none for a control."""
        return [p for p in self.parts(raw) if not self.is_control(p)]

    def canonical(self, raw: str) -> str:
        """The one spelling of a name: "B+A" and "A+B" are "A+B", "A+control" is "A"."""
        genes = sorted(self.genes(raw))
        return (self.separator or "").join(genes) if genes else str(self.control)

    def condition(self, doses: Mapping[str, float]) -> str:
        """The label of a condition: "A+B" at a dose of 1 each, "A=0.5+B" otherwise, the control's where all are 0.
        Doses are written so that no two single-precision numbers look the same."""
        parts = [
            name if amount == 1 else f"{name}={np.format_float_positional(np.float32(amount), trim='-')}"
            for name, amount in sorted(doses.items())
            if amount
        ]
        return (self.separator or "+").join(parts) or str(self.control)


@dataclass(frozen=True, eq=False, repr=False)
class PerturbationData:
    """Perturbed cells, ready for a model: n cells, G genes, T perturbations, C covariate columns, Q quality
    flags.

    x (n, G) counts as CSR float32, or real values as CSR or numpy, or either on disk (`samslib.disk.OnDisk`);
    dose (n, T) CSR float32, a zero row is a control; library (n,) total counts over the genes held here (1 for real
    values); covariate (n, C) one-hot; qc (n, Q) 0/1; guides (n,) how many perturbations each cell's name holds;
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
    guides: np.ndarray
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
        names = _naming(control, separator)
        if not adata.n_vars:
            raise DataError("The AnnData has no genes (0 columns); select at least one gene.")
        if adata.n_obs < 2:
            raise DataError(f"The AnnData has {_cells(adata.n_obs)}; at least 2 are needed.")
        genes, cells = _index(adata.var_names, "gene", "var"), _index(adata.obs_names, "cell", "obs")
        flags = _columns(quality, "quality flag")
        raw = _labels(adata, perturbation, names)
        amounts = None if dose is None else _column(adata, dose)
        _check_controls(names, perturbation, raw)
        perturbations, labels, doses = _encode(names, perturbation, raw, dose, amounts)
        covariate, levels = _one_hot(adata, _columns(covariates, "covariate"))
        x, total = _read(adata, layer, counts)
        data = cls(
            x=x,
            genes=tuple(genes),
            cells=cells,
            perturbations=perturbations,
            control=names.control,
            labels=labels,
            raw_labels=raw,
            guides=np.diff(doses.indptr),
            dose=doses,
            library=total if counts else np.ones(adata.n_obs),
            covariate=covariate,
            qc=_flags(adata, flags),
            covariates=levels,
            quality=flags,
            separator=separator,
            counts=counts,
            controls=() if names.control is None else (names.control, *names.others),
        )
        if counts and (empty := int((data.library == 0).sum())):
            matrix = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
            remedy = f"adata = adata[np.asarray({matrix}.sum(1)).ravel() > 0].copy()"
            raise DataError(f"{_cells(empty)} of {len(data)} have no counts; drop them: {remedy}")
        for doubt in _doubts(data):
            LOG.warning(doubt)
        return data

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape

    def __repr__(self) -> str:
        controls = "no controls" if self.control is None else f"{_cells(int((self.guides == 0).sum()))} of control"
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
        per_cell = ("cells", "labels", "raw_labels", "guides", "dose", "library", "covariate", "qc")
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
        table = pd.DataFrame({"label": self.labels, "guides": self.guides})
        table = table.groupby("label").agg(cells=("guides", "size"), guides=("guides", "first"))
        return table.sort_values("guides", kind="stable")

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
        treated = np.flatnonzero(self.guides)
        kinds, codes = np.unique(self.labels[treated].astype(str), return_inverse=True)
        ones = np.ones(len(treated), dtype=np.float32)
        dose = sp.csr_matrix((ones, (treated, codes)), shape=(len(self), len(kinds)))
        return replace(self, perturbations=tuple(map(str, kinds)), dose=dose, unique=True)

    def genes_seen(self, cells: int = 3) -> np.ndarray:
        """(G,) which genes have a non-zero value in at least `cells` cells."""
        seen = [np.asarray((block != 0).sum(0)).ravel() for _, block in _blocks(self.x)]
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
                raise DataError(f"{len(unknown)} of the genes are not in the data ({_list(unknown, 3)}){hint}")
            mask = index.get_indexer(given)
        at = self._positions(mask, self.genes, "genes")
        if not len(at):
            raise DataError("No gene is selected; the mask is False everywhere.")
        if len(set(at)) < len(at):
            raise DataError(f"{len(at) - len(set(at))} genes are selected more than once; select each once.")
        x = self.x.select(genes=at) if isinstance(self.x, OnDisk) else self.x[:, at]
        library = np.concatenate([_totals(block) for _, block in _blocks(x)]) if self.counts else self.library
        if empty := int((library == 0).sum()):
            blocks = "np.vstack([x[:, mask].sum(1) for _, x in data.x.blocks()])"
            sums = blocks if isinstance(x, OnDisk) else "data.x[:, mask].sum(1)"
            remedy = f"keep more genes, or first data = data[np.asarray({sums}).ravel() > 0]"
            raise DataError(f"{_cells(empty)} have no counts on the {len(at)} selected genes; {remedy}")
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
            LOG.warning("%s of %d are in no part of this split", _cells(dropped), len(self))
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
            raise DataError(f"The training split has {_cells(len(train))}; at least 2 are needed.")
        mean, std, log_mean, log_std = map(torch.tensor, _moments(train.x))
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

        sums = _product(sp.csr_matrix(np.ones((1, len(self)))), self.x).astype(np.float32)
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
        counts, cells = _product(of, self.x), np.bincount(code)
        share = counts / counts.sum(1, keepdims=True)
        second = (of @ self.library**2) @ share**2
        cross = (_product(of.multiply(self.library).tocsr(), self.x) * share).sum(0)
        squares = sum(
            np.asarray(block.multiply(block).sum(0, dtype=np.float64)).ravel() for _, block in _blocks(self.x)
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


def check_anndata(value: Any, where: str) -> None:
    """A DataError that says what `where` needs, unless `value` is an AnnData."""
    if not all(hasattr(value, part) for part in ("obs", "var_names", "layers")):
        remedy = "anndata.read_h5ad(path) reads one, anndata.AnnData(X) makes one"
        raise DataError(f"{where} needs an AnnData, not a {type(value).__name__}; {remedy}.")


def in_order(values: Any, names: Sequence[str] | np.ndarray, of: str) -> np.ndarray:
    """Values, one for each of the names, as an array. Those of a Series go by its index, unless that is 0, 1, 2, ...

    Raises DataError for an index that lacks a name, or has one twice: in another order the values would be those of
    other cells.
    """
    if not isinstance(values, pd.Series):
        return np.asarray(values)
    if values.index.equals(pd.RangeIndex(len(names))):
        return values.to_numpy()
    index = values.index.astype(str)
    at = index.get_indexer(pd.Index(names)) if index.is_unique else np.full(len(names), -1)
    if (at < 0).any():
        what = f"lacks {names[int(at.argmin())]!r}" if index.is_unique else "has a name twice"
        remedy = f"index it by the names of the {of}, or give the values in their order, .to_numpy()"
        raise DataError(f"The index of a Series for {len(names)} {of} {what}; {remedy}.")
    return values.to_numpy()[at]


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
        raise DataError(f"The split has {len(part)} labels for {_cells(cells)}; {remedy}.")
    if unknown := sorted(set(part.tolist()) - {"train", "val", "test", ""}, key=str):
        raise DataError(f'The split has labels {_list(unknown)}; they must be "train", "val", "test" or "" (left out).')
    for name in ("train", "val", "test"):
        if (size := int((part == name).sum())) < 2:
            raise DataError(
                f"The {name} split has {_cells(size)}; at least 2 are needed: change the shares or add cells."
            )
    return part


def _column(adata: Any, name: str) -> pd.Series:
    """A column of obs, or a DataError with the nearest name."""
    if not isinstance(name, Hashable) or name not in adata.obs:
        columns = list(map(str, adata.obs.columns))
        hint = did_you_mean(name, columns) or "."
        raise DataError(f"adata.obs has no column {name!r}{hint} Its columns: {_list(columns, 12) or 'none'}.")
    if isinstance(found := adata.obs[name], pd.DataFrame):
        raise DataError(f"adata.obs has {found.shape[1]} columns named {name!r}; rename or drop all but one.")
    return found


def _columns(given: str | Sequence[str] | None, what: str) -> tuple[str, ...]:
    """The names of columns of obs for one purpose, each once."""
    names = (given,) if isinstance(given, str) else () if given is None else tuple(given)
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"The {what} {twice[0]!r} is given twice; give each column once.")
    return names


def _index(names: pd.Index, what: str, axis: str) -> np.ndarray:
    """Names of genes or cells as text, all different."""
    texts = pd.Index([str(name) for name in names], dtype=object)
    if twice := texts[texts.duplicated()].unique().tolist():
        first = "" if names.has_duplicates else f"adata.{axis}_names = adata.{axis}_names.astype(str); "
        remedy = f"{first}adata.{axis}_names_make_unique()"
        raise DataError(f"{len(twice)} {what} name(s) occur more than once ({_list(twice, 3)}); call {remedy}.")
    return texts.to_numpy()


def _texts(values: pd.Series) -> np.ndarray:
    """(n,) labels as text, "nan" where they are missing. Types make no two labels of one: bytes are decoded, and in a
    column of several types 1.0 is "1"."""
    codes, kinds = pd.factorize(values.astype(object))  # to which 1 and 1.0 are the same
    mixed = len({type(kind) for kind in kinds}) > 1

    def text(kind: Any) -> str:
        if isinstance(kind, bytes):
            return kind.decode()
        whole = mixed and isinstance(kind, Real) and not isinstance(kind, bool) and float(kind).is_integer()
        return str(int(kind)) if whole else str(kind)

    return np.array([*map(text, kinds), "nan"], dtype=object)[codes]


def _naming(control: Any, separator: str | None) -> Names:
    """How names are read, of the control label or labels that were given."""
    if control is None:
        return Names(None, separator)
    several = isinstance(control, Sequence | np.ndarray | pd.Series | pd.Index) and not isinstance(control, str | bytes)
    labels = [
        label.decode() if isinstance(label, bytes) else str(label) for label in (control if several else [control])
    ]
    first, *others = dict.fromkeys(label.strip() for label in labels) or [""]
    if "" in (first, *others):
        raise DataError("The control label is empty; give the label of the control cells, or None if there are none.")
    return Names(first, separator, tuple(others))


def _labels(adata: Any, column: str, names: Names) -> np.ndarray:
    """(n,) perturbation labels as text; missing ones and those that say nothing are refused."""
    found = _column(adata, column)
    raw = _texts(found)
    kinds, codes = np.unique(raw.astype(str), return_inverse=True)
    empty = np.array([k.strip().lower() in NOTHING and not names.is_control(k.strip()) for k in kinds])
    if n := int((empty[codes] | found.isna().to_numpy()).sum()):
        remedy = "name them, or drop the cells: adata = adata[keep].copy()"
        raise DataError(f"{_cells(n)} have no perturbation in adata.obs[{column!r}] (empty, NaN or 'none'); {remedy}")
    return raw


def _encode(
    names: Names, column: str, raw: np.ndarray, dose: str | None, amounts: pd.Series | None
) -> tuple[tuple[str, ...], np.ndarray, sp.csr_matrix]:
    """Sorted perturbations, canonical label a cell and dose (n, T); every distinct (name, dose) is read
    once."""
    if amounts is None:
        keys = pd.Series(raw).to_frame("raw")
    else:
        keys = pd.DataFrame({"raw": raw, "dose": amounts.astype(object).to_numpy()})
    groups = keys.groupby(list(keys.columns), dropna=False, sort=False)
    codes, cells = groups.ngroup().to_numpy(), groups.size()
    kinds = [kind if isinstance(kind, tuple) else (kind,) for kind in cells.index]

    found: list[dict[str, float]] = []
    for (name, *amount), n in zip(kinds, cells, strict=True):
        where = f"{name!r} in adata.obs[{column!r}] ({_cells(n)})"
        genes, parts = names.genes(name), names.parts(name)
        if wrong := [(p, fault) for p in genes if (fault := _fault(p, of=len(parts)))]:
            remedy = "write only names of perturbations, or drop the cells"
            remedy += f"; if {names.separator!r} separates no names, give another separator, or None" * (len(parts) > 1)
            raise DataError(f"The perturbation {where} has a part that {wrong[0][1]} ({wrong[0][0]!r}); {remedy}.")
        if twice := sorted({g for g in genes if genes.count(g) > 1}):
            raise DataError(
                f"The perturbation {where} names {twice[0]!r} twice; name it once, with its amount in dose=."
            )
        size = _amounts(names, where, str(dose), amount[0], parts) if amount and genes else [1.0] * len(parts)
        found.append({p: a for p, a in zip(parts, size, strict=True) if p in genes})
    perturbations = tuple(sorted(set().union(*found)))
    if not perturbations:
        raise DataError(f"Every cell in adata.obs[{column!r}] is a control; at least one perturbation is needed.")
    position = {p: i for i, p in enumerate(perturbations)}
    rows = [i for i, doses in enumerate(found) for _ in doses]
    columns = [position[p] for doses in found for p in doses]
    values = np.array([a for doses in found for a in doses.values()], dtype=np.float32)
    table = sp.csr_matrix((values, (rows, columns)), shape=(len(kinds), len(perturbations)))
    labels = np.array([names.condition(doses) for doses in found], dtype=object)
    return perturbations, labels[codes], table[codes]


def _fault(part: str, of: int) -> str:
    """Why a part of a name of so many parts is no name itself, or nothing."""
    if part.lower() in NOTHING or not any(map(str.isalnum, part)):
        return "names nothing"
    brackets = re.sub(r"[^()\[\]{}]", "", part)
    while (fewer := PAIR.sub("", brackets)) != brackets:
        brackets = fewer
    return "has one bracket of a pair" if brackets and of > 1 else ""


def _amounts(names: Names, where: str, column: str, amount: Any, parts: list[str]) -> list[float]:
    """One dose a part of a name as written; a plain number counts for every part."""
    wrong = f"The dose {amount!r} in adata.obs[{column!r}] of {where}"
    try:
        texts = names.cut(amount) if isinstance(amount, str) else [amount] * len(parts)
        doses = [float(t) for t in texts]
    except (TypeError, ValueError):
        raise DataError(f"{wrong} is not a number; write one number a part, such as '0.5+1.0'.") from None
    if len(doses) != len(parts):
        raise DataError(
            f"{wrong} has {len(doses)} part(s) for {len(parts)}; write one number for each part of the name."
        )
    used = [d for d, p in zip(doses, parts, strict=True) if not names.is_control(p)]
    if not all(np.isfinite(d) and d > 0 for d in used):
        remedy = "a cell that did not receive a perturbation should not be named after it"
        raise DataError(f"{wrong} must be finite and above zero for every part; {remedy}.")
    return doses


def _check_controls(names: Names, column: str, raw: np.ndarray) -> None:
    kinds = sorted(set(raw))
    if names.control is None or not all(names.genes(k) for k in kinds):
        return
    inside = [k for k in kinds if any(names.is_control(p) for p in names.parts(k))]
    likely = sorted({p for k in kinds for p in names.parts(k) if LIKE_CONTROL.fullmatch(p)})
    if inside:
        hint = f"; it stands only inside names such as {inside[0]!r}."
    elif len(likely) > 1:
        hint = f"; did you mean control=[{_list(likely, 12)}]?"
    else:
        hint = f"; did you mean {likely[0]!r}?" if likely else did_you_mean(names.control, kinds) or "."
    labels = " or ".join(map(repr, (names.control, *names.others)))
    raise DataError(
        f"There are no control cells: no cell in adata.obs[{column!r}] is labelled {labels}{hint} "
        f"Labels found: {_list(kinds)}; pass control=None if the experiment has none."
    )


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
        yield f"No cell is labelled {_list(absent)}, as controls were said to be"
    pieces = {piece for run in names.controls.values() for piece in run}
    if likely := [p for p in data.perturbations if LIKE_CONTROL.fullmatch(p) or p in pieces]:
        remedy = f"if they are, pass control=[{_list([*data.controls, *likely], 12)}]"
        yield f"Perturbations that look like controls: {_list(likely)}; {remedy}"
    lower = pd.Series(data.perturbations, index=[p.casefold() for p in data.perturbations])
    if alike := list(lower[lower.index.duplicated(keep=False)].sort_index()):
        yield f"Perturbations that differ only in case: {_list(alike)}; if they are the same, write them in one way"
    if (data.guides > 1).any():
        alone = set(data._names[data.guides == 1])
        if never := [p for p in data.perturbations if p not in alone]:
            example = next(raw for raw in table.index if len(genes := names.genes(raw)) > 1 and not alone >= {*genes})
            remedy = f"if names such as {example!r} are no combinations, pass another separator, or separator=None"
            yield f"Perturbations that occur in combinations only: {_list(never, 3)}; {remedy}"
    elif names.separator and (other := _other_separator(names, list(table.index))):
        yield f"No name holds {names.separator!r}, but {other[1]!r} looks like a combination: separator={other[0]!r}?"


def _other_separator(names: Names, kinds: list[str]) -> tuple[str, str] | None:
    """A separator that cuts some name into perturbations that occur alone, or off a control, and such a name."""
    for separator in "+_|,;&/:".replace(str(names.separator), ""):
        trial = replace(names, separator=separator)
        genes = {raw: trial.genes(raw) for raw in kinds if not LIKE_CONTROL.fullmatch(raw)}
        alone = {parts[0] for parts in genes.values() if len(parts) == 1}
        for raw, parts in genes.items():
            if 0 < len(parts) < len(trial.parts(raw)) or len(parts) > 1 and alone.issuperset(parts):
                return separator, raw
    return None


def _one_hot(adata: Any, columns: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n, C) one-hot covariates and their "column=level" names."""
    blocks, levels = [np.zeros((adata.n_obs, 0), dtype=np.float32)], []
    for column in columns:
        values = _column(adata, column)
        spelt = _texts(values)
        texts = np.array([text.strip() for text in spelt], dtype=str)
        if missing := int(np.isin(np.char.lower(texts), ["", "nan", "<na>", "na"]).sum()):
            raise DataError(f"The covariate adata.obs[{column!r}] is missing in {_cells(missing)}; fill or drop them.")
        if "=" in column:
            raise DataError(f"The covariate {column!r} has a '=' in its name, which is for levels; rename the column.")
        kinds, codes = np.unique(texts, return_inverse=True)
        numeric = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
        continuous = pd.api.types.is_float_dtype(values.dtype) and (values % 1 != 0).any()
        if continuous or len(kinds) > min(LEVELS, max(20, len(texts) // (10 if numeric else 2))):
            what = "is continuous" if continuous else f"has {len(kinds)} levels in {_cells(len(texts))}"
            remedy = "cut it into levels, with pd.cut for one" if numeric else "give a column with few levels"
            raise DataError(f"The covariate adata.obs[{column!r}] {what}; {remedy}.")
        if merged := len(set(spelt)) - len(kinds):
            LOG.warning("%d levels of adata.obs[%r] differ from others only in blanks and are the same", merged, column)
        block = np.zeros((len(texts), len(kinds)), dtype=np.float32)
        block[np.arange(len(texts)), codes] = 1
        blocks.append(block)
        levels += [f"{column}={kind}" for kind in kinds]
    return np.hstack(blocks), tuple(levels)


def _flags(adata: Any, columns: tuple[str, ...]) -> np.ndarray:
    """(n, Q) quality flags as 0/1."""
    qc = np.zeros((adata.n_obs, len(columns)), dtype=np.float32)
    for i, column in enumerate(columns):
        values = pd.to_numeric(_column(adata, column).astype(object), errors="coerce").astype(float)
        if wrong := int((~values.isin([0, 1])).sum()):
            remedy = "1 marks a cell of poor quality, 0 a good one"
            raise DataError(f"The quality flag adata.obs[{column!r}] is not 0 or 1 in {_cells(wrong)}; {remedy}.")
        if (share := values.mean()) > 0.5:
            text = "The quality flag %r is 1 in %.0f%% of cells; 1 marks a cell of poor quality"
            LOG.warning(text, column, 100 * share)
        qc[:, i] = values
    return qc


def _read(adata: Any, layer: str | None, counts: bool) -> tuple[Any, np.ndarray]:
    """The matrix, checked, and its row sums (n,): on disk if it is CSR there, else in memory as CSR float32, or as a
    float32 array for dense real values."""
    if layer is not None and layer not in adata.layers:
        known = list(map(str, adata.layers))
        hint = did_you_mean(layer, known) or "."
        raise DataError(f"adata.layers has no {layer!r}{hint} Layers: {_list(known) or 'none'}; layer=None is adata.X.")
    stored = adata.X if layer is None else adata.layers[layer]
    if stored is None:
        raise DataError("adata.X is empty; name the layer that holds the counts with layer=.")
    on_disk = isinstance(stored, CSRDataset)
    if adata.isbacked and layer is None and not on_disk:
        LOG.warning("adata.X is read into memory; a CSR matrix in a file, and no view of it, would stay on disk")
    stored = stored.to_memory() if isinstance(stored, CSCDataset) else stored
    if (on_disk or sp.issparse(stored)) and stored.dtype == np.float16:
        raise DataError(
            "The matrix is sparse and holds float16 values, which SciPy does not take; store it as float32."
        )
    stored = sp.csr_matrix(stored) if sp.issparse(stored) else stored
    step = max(1, BLOCK // adata.n_vars)
    blocks, totals, bad = [], [], dict.fromkeys(("NaN", "infinite", "negative", "fractional", "too large"), 0)
    for start in range(0, adata.n_obs, step):
        block = stored[start : start + step]
        block = block if sp.issparse(block) or np.ma.isMaskedArray(block) else np.asarray(block)
        if block.dtype.kind not in "biuf":
            raise DataError(f"The matrix holds {block.dtype} values; it must hold numbers.")
        sparse = counts or sp.issparse(block)
        block = canonical(block) if sparse else np.ma.filled(block.astype(np.float64), np.nan)
        _count_bad(block, bad, counts)
        with np.errstate(over="ignore"):  # which is refused below
            block = block.astype(np.float32)
        totals.append(_totals(block))
        if not on_disk:
            blocks.append(block)
    for kind, n in bad.items():
        if n:
            raise DataError(_bad_counts(adata, layer, kind, n, counts))
    total = np.concatenate(totals)
    if on_disk:
        return OnDisk(stored), total
    return sp.vstack(blocks, format="csr") if sp.issparse(blocks[0]) else np.concatenate(blocks), total


def _totals(block: Any) -> np.ndarray:
    return block @ np.ones(block.shape[1])  # in float64


def _blocks(x: Any) -> Iterator[tuple[int, Any]]:
    """Blocks of rows that fit into memory, each with the position of its first row: one if x is there already."""
    return x.blocks() if isinstance(x, OnDisk) else iter([(0, x)])


def _product(of: sp.csr_matrix, x: Any) -> np.ndarray:
    """(k, G) product of a sparse matrix (k, n) with x (n, G)."""
    parts = (of[:, start : start + block.shape[0]] @ block for start, block in _blocks(x))
    return sum(part.toarray() if sp.issparse(part) else part for part in parts)


def _count_bad(block: Any, bad: dict[str, int], counts: bool) -> None:
    """Add the number of cells with each kind of bad value."""
    values = block.data if sp.issparse(block) else block
    finite, most = np.isfinite(values), 2**24 if counts else np.finfo(np.float32).max
    kinds = {"NaN": np.isnan(values), "infinite": np.isinf(values), "too large": finite & (np.abs(values) > most)}
    if counts:
        with np.errstate(invalid="ignore"):
            kinds |= {"negative": values < 0, "fractional": finite & (values != np.rint(values))}
    for kind, where in kinds.items():
        if where.any():
            rows = (
                np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
                if sp.issparse(block)
                else where.nonzero()[0]
            )
            bad[kind] += len(np.unique(rows[where] if sp.issparse(block) else rows))


def _bad_counts(adata: Any, layer: str | None, kind: str, cells: int, counts: bool) -> str:
    matrix = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    what = f"{matrix} has {kind} values in {_cells(cells)}"
    if kind in ("NaN", "infinite"):
        return f"{what}; drop these cells or find out what made them so."
    if kind == "too large":
        limit = "2**24, not exact in float32); a cell's counts are smaller" if counts else "what float32 can hold)"
        return f"{what} (above {limit}: check the matrix."
    looks = [f"layer={name!r}" for name in adata.layers if name != layer and _looks_raw(adata.layers[name])]
    if layer is not None and not adata.isbacked and adata.X is not None and _looks_raw(adata.X):
        looks.append("layer=None (adata.X)")
    if adata.raw is not None and _looks_raw(adata.raw.X):
        looks.append("adata.raw.to_adata() in place of adata")
    remedy = f"raw seems {looks[0]}: pass that" if looks else "no other layer looks raw: read the file of raw counts"
    return f"{what}, but raw counts are needed (counts=False: real values, Normal likelihood); {remedy}."


def _looks_raw(matrix: Any) -> bool:
    """Whether a first block of a matrix has whole, non-negative values, not all zero."""
    values = matrix[:200]
    values = values.data if sp.issparse(values) else np.asarray(values)
    return bool(
        values.dtype.kind in "iuf" and values.any() and (values >= 0).all() and (values == np.rint(values)).all()
    )


def _moments(x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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
