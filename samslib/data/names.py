"""How perturbations are named: combinations, controls, the dose that a name stands for, and likely mistakes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from samslib.data.messages import did_you_mean, quoted
from samslib.validation import DataError, require

NOTHING = {"", "nan", "none", "null", "<na>", "na", "n/a"}  # how a missing label looks once it has been through a file

CONTROL = (
    r"(controls?|ctrls?|non?[\W_]*target(ing|ed)?|neg(ative)?(?=[\W_]*(control|ctrl))|ntc?(?![a-z])|intergenic"
    r"|scrambled?|safe[\W_]*(targeting|harbou?r)|un(perturbed|treated|stimulated)|dmso|vehicle|mock|pbs)"
)

LIKE_CONTROL = re.compile(  # NT_1, NegCtrl0, non-targeting_00012|non-targeting_00034; not the gene NT5C
    rf"(sg|grna|guide)?[\W_]*{CONTROL}([\W\d_]*({CONTROL}|guides?|cells?))*[\W\d_]*([acgt]{{10,}})?", re.IGNORECASE
)


@dataclass(frozen=True)
class Names:
    """How perturbation names are read: parts between separators, sorted, without controls.

    A label is matched whole: "non+targeting" is one part wherever it stands, and neither "non" nor "targeting" is a
    control. Only a label that repeats itself, such as "ctrl+ctrl", makes its part "ctrl" a control as well.

    Parameters
    ----------
    controls
        The labels of control cells, which all become the first; empty if there are none.
    separator
        Text between the parts of a combination; None if names are never split.
    """

    controls: tuple[str, ...]
    separator: str | None

    @cached_property
    def control_parts(self) -> dict[str, list[str]]:
        """Every part of a name that means control, with its pieces, the longest first."""
        runs = [self.cut(label) for label in self.controls]
        runs += [run[:1] for run in runs if len(set(run)) == 1 and run[0]]
        return {self.joined(run): run for run in sorted(runs, key=len, reverse=True)}

    def cut(self, text: str) -> list[str]:
        """A text in pieces, blanks around them removed.

        Parameters
        ----------
        text
            A name, or a text of doses, with separators.

        Returns
        -------
        list
            The pieces in the order written, a single one without a separator.
        """
        return [p.strip() for p in text.split(self.separator)] if self.separator else [text.strip()]

    def joined(self, parts: Sequence[str]) -> str:
        """The name of these parts.

        Parameters
        ----------
        parts
            Parts of a name, in order.

        Returns
        -------
        str
            The parts with separators between them; the label that controls get where there are none.
        """
        return (self.separator or "+").join(parts or self.controls[:1] or ["None"])

    def parts(self, raw: str) -> list[str]:
        """Every part of a name as written: its pieces, but a control's label in one.

        Parameters
        ----------
        raw
            A name as written.

        Returns
        -------
        list
            The parts in the order written, controls among them.
        """
        pieces, found = self.cut(raw), []
        while pieces:
            part = next((run for run in self.control_parts.values() if pieces[: len(run)] == run), pieces[:1])
            found.append(self.joined(part))
            pieces = pieces[len(part) :]
        return found

    def perturbations(self, raw: str) -> list[str]:
        """The perturbations in a name; none in a control's.

        Parameters
        ----------
        raw
            A name as written.

        Returns
        -------
        list
            The parts in the order written, without controls.
        """
        return [part for part in self.parts(raw) if part not in self.control_parts]

    def canonical(self, raw: str) -> str:
        """The one spelling of a name: "B+A" and "A+B" are "A+B", "A+control" is "A".

        Parameters
        ----------
        raw
            A name as written.

        Returns
        -------
        str
            Its perturbations, sorted; the control's label if there are none.
        """
        return self.joined(sorted(self.perturbations(raw)))

    def condition(self, doses: Mapping[str, float]) -> str:
        """The label of a condition: "A+B" at a dose of 1 each, "A=0.5+B" otherwise.

        Doses are written so that no two single-precision numbers look the same.

        Parameters
        ----------
        doses
            Dose of each perturbation, by name.

        Returns
        -------
        str
            The label, perturbations sorted and those of dose 0 left out; the control's where all are 0.
        """
        amounts = {name: np.format_float_positional(np.float32(dose), trim="-") for name, dose in doses.items() if dose}
        return self.joined([f"{name}={amount}".removesuffix("=1") for name, amount in sorted(amounts.items())])


def as_text(value: Any) -> str:
    """A label as text.

    Parameters
    ----------
    value
        A label of any type; bytes are decoded.

    Returns
    -------
    str
        The text.
    """
    return value.decode() if isinstance(value, bytes) else str(value)


def read_naming(control: Any, separator: str | None) -> Names:
    """How names are read, given the labels of controls.

    Parameters
    ----------
    control
        Label of control cells, or several, of which the first becomes the label of all; None without controls.
    separator
        Text between the parts of a combination; None if names are never split.

    Returns
    -------
    Names
        The labels as text, blanks around them removed, each once.

    Raises
    ------
    DataError
        For an empty label, an empty sequence of them, or an empty separator.
    """
    require(separator != "", "The separator is an empty text; give the text between names, or None.", DataError)
    given = [] if control is None else np.atleast_1d(control).tolist()
    controls = tuple(dict.fromkeys(as_text(label).strip() for label in given))
    named = control is None or controls and "" not in controls
    require(named, "The control label is empty; give that of the control cells, or None without any.", DataError)
    return Names(controls, separator)


def check_controls(names: Names, kinds: Sequence[str], where: str) -> None:
    """Refuse data without control cells if a control label was given.

    Parameters
    ----------
    names
        How names are read.
    kinds
        Distinct names of the cells' perturbations as written, sorted.
    where
        The column of obs that they come from, for the message.

    Raises
    ------
    DataError
        If no cell is labelled as control, with the likely label.
    """
    if not names.controls or not all(map(names.perturbations, kinds)):
        return
    likely = sorted({part for kind in kinds for part in names.parts(kind) if LIKE_CONTROL.fullmatch(part)})
    hint = did_you_mean(names.controls[0], kinds) or "."
    if inside := [kind for kind in kinds if names.perturbations(kind) != names.parts(kind)]:
        hint = f"; it stands only inside names such as {inside[0]!r}."
    elif likely:
        hint = f"; did you mean {repr(likely[0]) if len(likely) == 1 else f'control=[{quoted(likely, 12)}]'}?"
    none = f"There are no control cells: no cell in {where} is labelled {' or '.join(map(repr, names.controls))}{hint}"
    raise DataError(f"{none} Labels found: {quoted(kinds)}; pass control=None if the experiment has none.")


def doubts(names: Names, report: pd.DataFrame) -> Iterator[str]:
    """Names that were rewritten, and names that are likely a mistake.

    Parameters
    ----------
    names
        How names were read.
    report
        What was read: index name as written, column "canonical" its one spelling.

    Returns
    -------
    Iterator
        A sentence for each doubt.
    """
    changed = report["canonical"][report.index != report["canonical"]]
    if len(changed):
        example = "; ".join(f"{raw!r} is now {new!r}" for raw, new in changed.head(3).items())
        merged = f"{len(report) - report['canonical'].nunique()} merged with another; data.names has all"
        yield f"{len(changed)} of {len(report)} perturbation names rewritten ({example}), {merged}"
    found = {raw: names.perturbations(raw) for raw in report.index}
    perturbations = sorted(set().union(*found.values()))
    written = {part for raw in found for part in names.parts(raw)}
    if absent := [label for label in names.controls if names.parts(label)[0] not in written]:
        yield f"No cell is labelled {quoted(absent)}, as controls were said to be"
    pieces = {piece for run in names.control_parts.values() for piece in run}
    if likely := [p for p in perturbations if LIKE_CONTROL.fullmatch(p) or p in pieces]:
        remedy = f"if they are, pass control=[{quoted([*names.controls, *likely], 12)}]"
        yield f"Perturbations that look like controls: {quoted(likely)}; {remedy}"
    spelt = pd.Series(perturbations, index=[p.casefold() for p in perturbations])
    if alike := list(spelt[spelt.index.duplicated(keep=False)].sort_index()):
        yield f"Perturbations that differ only in case: {quoted(alike)}; if they are the same, write them in one way"
    yield from _doubted_separator(names, found)


def _doubted_separator(names: Names, found: Mapping[str, list[str]]) -> Iterator[str]:
    """A sentence if names, each with its perturbations, seem to be cut where they should not be, or the reverse."""
    combined = {raw: parts for raw, parts in found.items() if len(parts) > 1}
    alone = {parts[0] for parts in found.values() if len(parts) == 1}
    if never := sorted(set().union(*combined.values()) - alone):
        example = next(raw for raw, parts in combined.items() if not alone.issuperset(parts))
        remedy = f"if names such as {example!r} are no combinations, pass another separator, or separator=None"
        yield f"Perturbations that occur in combinations only: {quoted(never, 3)}; {remedy}"
    elif names.separator and not combined and (other := _other_separator(names, list(found))):
        yield f"No name holds {names.separator!r}, but {other[1]!r} looks like a combination: separator={other[0]!r}?"


def _other_separator(names: Names, kinds: list[str]) -> tuple[str, str] | None:
    """A separator that cuts some name into perturbations that occur alone, or off a control; and that name."""
    for separator in "+_|,;&/:".replace(str(names.separator), ""):
        trial = replace(names, separator=separator)
        found = {raw: trial.perturbations(raw) for raw in kinds if not LIKE_CONTROL.fullmatch(raw)}
        alone = {parts[0] for parts in found.values() if len(parts) == 1}
        for raw, parts in found.items():
            if 0 < len(parts) < len(trial.parts(raw)) or len(parts) > 1 and alone.issuperset(parts):
                return separator, raw
    return None


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
                if not (pd.api.types.is_number(dose) and 0 <= dose < np.inf):
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
        require(len(doses) == len(read), f"{label!r} names a perturbation twice; name it once.", DataError)
        row[0, [self.columns[p] for p in doses]] = self._amounts(name, doses)
        return row

    def _read_part(self, part: str, label: str) -> tuple[str, float | None]:
        """A perturbation and its dose, of "A=0.5" or, without a dose, of "A"."""
        name, _, amount = part.rpartition("=")
        if part in self.columns:
            return part, None
        if name not in self.columns:
            hint = did_you_mean(part, self.columns) or "."
            raise DataError(f"{part!r} in {label!r} is not one of data.perturbations{hint}")
        dose = pd.to_numeric(amount, errors="coerce")
        if not 0 < dose < np.inf:
            raise DataError(f"The dose in {part!r} is {amount!r}; give a finite number above 0, such as '{name}=0.5'.")
        return name, dose

    def _amounts(self, name: str, given: Mapping[str, float | None]) -> Any:
        """The dose of each part of a name: that given, or the commonest among the cells."""
        columns = [self.columns[p] for p in given]
        if not any(given.values()):
            if self.naming.condition(dict.fromkeys(given, 1.0)) in self.labels:
                return 1
            if name in self.cells_of:
                return _commonest(self.dose[:, columns][self.cells_of[name]].toarray())
        pairs = zip(given.values(), columns, strict=True)
        return [amount or _commonest(self.dose[:, [column]].data) for amount, column in pairs]


def _commonest(values: np.ndarray) -> Any:
    """The most frequent value or row, the smallest of several; 1 where there is none."""
    seen, times = np.unique(values, axis=0, return_counts=True)
    return seen[times.argmax()] if len(seen) else 1.0
