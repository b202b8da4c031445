"""How perturbations are named: combinations and controls, and what of it is likely a mistake."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from samslib.validation import DataError, did_you_mean, quoted

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

    @property
    def control(self) -> str | None:
        """The label that controls get; None if there are none."""
        return self.controls[0] if self.controls else None

    @cached_property
    def control_parts(self) -> dict[str, list[str]]:
        """Every part of a name that means control, with its pieces, the longest first."""
        found = {}
        for pieces in map(self.cut, self.controls):
            found[self.joined(pieces)] = pieces
            if len(set(pieces)) == 1 and pieces[0]:
                found[pieces[0]] = pieces[:1]
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))

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
            The parts with separators between them.
        """
        return (self.separator or "+").join(parts)

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
        found = sorted(self.perturbations(raw))
        return self.joined(found) if found else str(self.control)

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
        parts = [
            name if amount == 1 else f"{name}={np.format_float_positional(np.float32(amount), trim='-')}"
            for name, amount in sorted(doses.items())
            if amount
        ]
        return self.joined(parts) if parts else str(self.control)


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
    if separator == "":
        raise DataError("The separator is an empty text; give the text between names, or None if there is none.")
    if control is None:
        return Names((), separator)
    controls = tuple(dict.fromkeys(as_text(label).strip() for label in np.atleast_1d(control).tolist()))
    if not controls or "" in controls:
        raise DataError("The control label is empty; give the label of the control cells, or None if there are none.")
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
    raise DataError(
        f"There are no control cells: no cell in {where} is labelled {' or '.join(map(repr, names.controls))}{hint} "
        f"Labels found: {quoted(kinds)}; pass control=None if the experiment has none."
    )


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
