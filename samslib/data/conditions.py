"""The conditions of the cells: their names, and the dose that each name stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib.data.messages import did_you_mean
from samslib.data.names import Names
from samslib.validation import DataError


@dataclass(frozen=True, eq=False)
class Conditions:
    """Names and doses of n cells with T perturbations.

    Parameters
    ----------
    naming
        How names are read.
    perturbations
        T names, the columns of `dose`.
    labels, raw_labels
        (n,) name of each cell's condition with its doses, and as it was written.
    dose
        (n, T) CSR.
    unique
        Whether a combination is a perturbation of its own.
    """

    naming: Names
    perturbations: tuple[str, ...]
    labels: np.ndarray
    raw_labels: np.ndarray
    dose: sp.csr_matrix
    unique: bool = False

    @cached_property
    def names(self) -> np.ndarray:
        """(n,) each cell's canonical name, whatever its doses."""
        kinds, codes = np.unique(self.raw_labels.astype(str), return_inverse=True)
        return np.array([self.naming.canonical(raw) for raw in kinds], dtype=object)[codes]

    @cached_property
    def report(self) -> pd.DataFrame:
        """Index raw label, columns canonical name and number of cells."""
        table = pd.DataFrame({"raw": self.raw_labels, "canonical": self.names})
        return table.groupby(["raw", "canonical"]).size().rename("cells").reset_index("canonical")

    def as_columns(self) -> tuple[tuple[str, ...], sp.csr_matrix]:
        """Distinct labels of treated cells, and (n, labels) 1 in the column of each cell's."""
        treated = np.flatnonzero(np.diff(self.dose.indptr))
        kinds, codes = np.unique(self.labels[treated].astype(str), return_inverse=True)
        ones = np.ones(len(treated), dtype=np.float32)
        return tuple(map(str, kinds)), sp.csr_matrix((ones, (treated, codes)), shape=(len(self.labels), len(kinds)))

    def dose_of(self, label: str | Mapping[str, float]) -> np.ndarray:
        """(1, T) dose of a name, or of amounts by perturbation.

        Parameters
        ----------
        label
            Such as "A+B", "A=0.5+B" or {"A": 0.5, "B": 1}.

        Raises
        ------
        DataError
            For a name with unknown or repeated parts, and for amounts that are no doses.
        """
        if isinstance(label, Mapping):
            return self._dose_of_amounts(label)
        if not isinstance(label, str):
            parts = map(str, label) if isinstance(label, Sequence) else ("A", "B")
            combined = (self.naming.separator or "+").join(parts)
            raise DataError(f"{label!r} is no name of a condition; a combination is one text, such as {combined!r}.")
        row = np.zeros((1, len(self.perturbations)), dtype=np.float32)
        name = self.naming.canonical(label)
        parts = [name] if name in self._column_of or self.unique else self.naming.genes(name)
        read = [self._read_part(part) for part in parts]
        if name == self.naming.control:
            return row
        given = dict(read)
        if unknown := [p for p in given if p not in self._column_of]:
            known = "one of the conditions that have a column" if self.unique else "one of data.perturbations"
            hint = did_you_mean(unknown[0], self.perturbations) or "."
            raise DataError(f"{unknown[0]!r} in {label!r} is not {known}{hint}")
        if len(given) < len(read):
            raise DataError(f"{label!r} names a perturbation twice; name it once.")
        row[0, [self._column_of[p] for p in given]] = self._amounts(name, given)
        return row

    def _dose_of_amounts(self, amounts: Mapping[str, float]) -> np.ndarray:
        row = np.zeros((1, len(self.perturbations)), dtype=np.float32)
        for p, d in amounts.items():
            if not (isinstance(d, Real) and np.isfinite(d) and d >= 0):
                raise DataError(f"The dose of {p!r} is {d!r}; give a finite number, 0 or above.")
        for p, d in amounts.items():
            row += np.float32(d) * (self.dose_of(p) != 0)
        return row

    def _read_part(self, part: str) -> tuple[str, float | None]:
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

    def _amounts(self, name: str, given: Mapping[str, float | None]) -> Sequence[float] | np.ndarray:
        """The dose of each part of a name: that given, or the commonest among the cells."""
        columns = [self._column_of[p] for p in given]
        if not any(given.values()):
            label = self.naming.condition(dict.fromkeys(given, 1.0))
            if (cells := self._cells_by_label.get(label)) is not None:
                return self.dose[cells[:1]][:, columns].toarray()[0]
            if (cells := self._cells_by_name.get(name)) is not None:
                return _commonest(self.dose[cells][:, columns].toarray())
        return [amount or self._usual_dose(column) for column, amount in zip(columns, given.values(), strict=True)]

    def _usual_dose(self, column: int) -> float:
        found = self._dose_by_column[:, [column]].data
        return _commonest(found) if len(found) else 1.0

    @cached_property
    def _column_of(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.perturbations)}

    @cached_property
    def _cells_by_label(self) -> dict[str, np.ndarray]:
        return pd.Series(self.labels).groupby(self.labels).indices

    @cached_property
    def _cells_by_name(self) -> dict[str, np.ndarray]:
        return pd.Series(self.names).groupby(self.names).indices

    @cached_property
    def _dose_by_column(self) -> sp.csc_matrix:
        return self.dose.tocsc()


def _commonest(values: np.ndarray) -> Any:
    """The most frequent row."""
    seen, times = np.unique(values, axis=0, return_counts=True)
    return seen[times.argmax()]


def level_columns(given: Sequence[str], covariates: tuple[str, ...]) -> list[float]:
    """0 or 1 for each covariate level, of one level of every covariate.

    Parameters
    ----------
    given
        One level of each covariate, such as ["line=K562"].
    covariates
        All levels, as "column=level".

    Raises
    ------
    DataError
        For a level that is unknown, missing or given twice.
    """
    if isinstance(given, str):
        raise DataError(f"The levels are one text, {given!r}; give a list of levels: [{given!r}].")
    for level in given:
        if level not in covariates:
            known = f"; the levels are {', '.join(covariates) or 'none'}."
            raise DataError(f"{level!r} is no level of the data's covariates{did_you_mean(level, covariates) or known}")
    asked, there = ([name.split("=")[0] for name in names] for names in (given, covariates))
    if len(asked) != len(set(there)) or set(asked) != set(there):
        raise DataError(f"The query has levels of {asked}; give one level of each of {sorted(set(there))}.")
    return [float(name in given) for name in covariates]
