"""The conditions of the cells: their names, and the dose that each name stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib.data.names import NOTHING, Names
from samslib.validation import DataError, count_cells, did_you_mean

PAIR = re.compile(r"\(\)|\[\]|\{\}")


def encode_names(names: Names, raw: pd.Series, amounts: pd.Series) -> tuple[tuple[str, ...], np.ndarray, sp.csr_matrix]:
    """Perturbations, labels and doses of all cells; every distinct (name, dose) is read once.

    Parameters
    ----------
    names
        How names are read.
    raw
        (n,) names of the cells' perturbations as written. Columns of obs are called by the names of the two Series.
    amounts
        (n,) doses as written: a number for every part of the name, or a text such as "0.5+1.0" with one a part, in the
        order written.

    Returns
    -------
    perturbations
        T names, sorted.
    labels
        (n,) canonical label of each cell's condition; see `Names.condition`.
    doses
        (n, T) CSR float32 doses, 0 in controls.

    Raises
    ------
    DataError
        For a part that is no name, a name with one perturbation twice, a dose that is not a finite number above 0 or
        not one for each part, or if all cells are controls.
    """
    keys = pd.DataFrame({"raw": raw.to_numpy(), "dose": amounts.astype(object).to_numpy()})
    groups = keys.groupby(["raw", "dose"], dropna=False, sort=False)
    codes, found = groups.ngroup().to_numpy(), []
    for (name, amount), cells in groups.size().items():
        where = f"{name!r} in adata.obs[{raw.name!r}] ({count_cells(cells)})"
        _check_name(names, name, where)
        found.append(_read_doses(names, name, amount, f"The dose {amount!r} in adata.obs[{amounts.name!r}] of {where}"))
    long = [(kind, name, dose) for kind, doses in enumerate(found) for name, dose in doses.items()]
    if not long:
        raise DataError(f"Every cell in adata.obs[{raw.name!r}] is a control; at least one perturbation is needed.")
    rows, parts, values = zip(*long, strict=True)
    columns, perturbations = pd.factorize(np.array(parts, dtype=object), sort=True)
    doses = sp.csr_matrix((np.float32(values), (rows, columns)), (len(found), len(perturbations)))
    labels = np.array(list(map(names.condition, found)), dtype=object)
    return tuple(perturbations), labels[codes], doses[codes]


def _check_name(names: Names, name: str, where: str) -> None:
    parts, own = names.parts(name), names.perturbations(name)
    if wrong := [(part, fault) for part in own if (fault := _name_fault(part, cut=len(parts) > 1))]:
        remedy = "write only names of perturbations, or drop the cells"
        remedy += f"; if {names.separator!r} separates no names, give another separator, or None" * (len(parts) > 1)
        raise DataError(f"The perturbation {where} has a part that {wrong[0][1]} ({wrong[0][0]!r}); {remedy}.")
    if twice := [part for part in own if own.count(part) > 1]:
        raise DataError(f"The perturbation {where} names {twice[0]!r} twice; name it once, with its amount in dose=.")


def _name_fault(part: str, cut: bool) -> str:
    """Why a part of a name, perhaps cut from others, is no name itself; empty if it is one."""
    if part.lower() in NOTHING or not any(map(str.isalnum, part)):
        return "names nothing"
    brackets = re.sub(r"[^()\[\]{}]", "", part)
    while (fewer := PAIR.sub("", brackets)) != brackets:
        brackets = fewer
    return "has one bracket of a pair" if brackets and cut else ""


def _read_doses(names: Names, name: str, amount: Any, what: str) -> dict[str, float]:
    """Dose of each perturbation in a name as written; a plain number counts for every part."""
    parts = names.parts(name)
    doses = [_number(text) for text in (names.cut(amount) if isinstance(amount, str) else [amount] * len(parts))]
    if not names.perturbations(name):
        return {}
    if len(doses) != len(parts):
        raise DataError(f"{what} has {len(doses)} part(s) for {len(parts)}; write one number for each part.")
    found = {part: dose for part, dose in zip(parts, doses, strict=True) if part not in names.control_parts}
    if not all(0 < dose < np.inf for dose in found.values()):
        remedy = "a cell that did not receive a perturbation should not be named after it"
        raise DataError(f"{what} is not a number for each part, finite and above zero; {remedy}.")
    return found


def _number(text: Any) -> float:
    """A number as written; NaN for what is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return np.nan


class Conditions:
    """The conditions of some cells, by name.

    Parameters
    ----------
    data
        A `PerturbationData`.
    """

    def __init__(self, data: Any):
        self.naming, self.unique, self.dose = data.naming, data.unique, data.dose.tocsc()
        self.columns = {name: i for i, name in enumerate(data.perturbations)}
        cells = pd.Series(data.raw_labels, name="raw").value_counts().sort_index()
        self.report = pd.DataFrame({"canonical": map(self.naming.canonical, cells.index), "cells": cells})
        names = self.report["canonical"].reindex(data.raw_labels).to_numpy()
        self.labels, self.cells_of = set(data.labels), pd.Series(names).groupby(names).indices

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
        row = np.zeros((1, len(self.columns)), dtype=np.float32)
        if isinstance(label, Mapping):
            for name, dose in label.items():
                if not (isinstance(dose, Real) and 0 <= dose < np.inf):
                    raise DataError(f"The dose of {name!r} is {dose!r}; give a finite number, 0 or above.")
                row += np.float32(dose) * (self.dose_of(name) != 0)
            return row
        if not isinstance(label, str):
            combined = self.naming.joined([*map(str, label)] if isinstance(label, Sequence) else ["A", "B"])
            raise DataError(f"{label!r} is no name of a condition; a combination is one text, such as {combined!r}.")
        name = self.naming.canonical(label)
        parts = self.naming.perturbations(name)
        read = [self._read_part(part, label) for part in ([name] if self.unique and parts else parts)]
        doses = dict(read)
        if len(doses) < len(read):
            raise DataError(f"{label!r} names a perturbation twice; name it once.")
        row[0, [self.columns[p] for p in doses]] = self._amounts(name, doses)
        return row

    def _read_part(self, part: str, label: str) -> tuple[str, float | None]:
        """A perturbation and its dose, of "A=0.5" or, without a dose, of "A"."""
        name, _, amount = part.rpartition("=")
        if part in self.columns:
            return part, None
        if name not in self.columns:
            known = "one of the conditions that have a column" if self.unique else "one of data.perturbations"
            raise DataError(f"{part!r} in {label!r} is not {known}{did_you_mean(part, list(self.columns)) or '.'}")
        dose = _number(amount)
        if not 0 < dose < np.inf:
            raise DataError(f"The dose in {part!r} is {amount!r}; give a finite number above 0, such as '{name}=0.5'.")
        return name, dose

    def _amounts(self, name: str, given: Mapping[str, float | None]) -> Any:
        """The dose of each part of a name: that given, or the commonest among the cells."""
        doses = [self.dose[:, [self.columns[p]]] for p in given]
        if not any(given.values()):
            if self.naming.condition(dict.fromkeys(given, 1.0)) in self.labels:
                return 1
            if name in self.cells_of:
                return _commonest(sp.hstack(doses, format="csr")[self.cells_of[name]].toarray())
        return [amount or _commonest(dose.data) for amount, dose in zip(given.values(), doses, strict=True)]


def _commonest(values: np.ndarray) -> Any:
    """The most frequent value or row, the smallest of several; 1 where there is none."""
    seen, times = np.unique(values, axis=0, return_counts=True)
    return seen[times.argmax()] if len(seen) else 1.0


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
    if unknown := [level for level in given if level not in covariates]:
        hint = did_you_mean(unknown[0], covariates) or f"; the levels are {', '.join(covariates) or 'none'}."
        raise DataError(f"{unknown[0]!r} is no level of the data's covariates{hint}")
    asked, there = (sorted(name.split("=")[0] for name in names) for names in (given, covariates))
    if asked != sorted(set(there)):
        raise DataError(f"The query has levels of {asked}; give one level of each of {sorted(set(there))}.")
    return [float(name in given) for name in covariates]
