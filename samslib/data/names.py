"""How perturbations are named: combinations, controls, and the doses written with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib.data.messages import count_cells, did_you_mean, quoted
from samslib.validation import DataError

NOTHING = {"", "nan", "none", "null", "<na>", "na", "n/a"}  # how a missing label looks once it has been through a file

CONTROL = (
    r"(controls?|ctrls?|non?[\W_]*target(ing|ed)?|neg(ative)?(?=[\W_]*(control|ctrl))|ntc?(?![a-z])|intergenic"
    r"|scrambled?|safe[\W_]*(targeting|harbou?r)|un(perturbed|treated|stimulated)|dmso|vehicle|mock|pbs)"
)

LIKE_CONTROL = re.compile(  # NT_1, NegCtrl0, non-targeting_00012|non-targeting_00034; not the gene NT5C
    rf"(sg|grna|guide)?[\W_]*{CONTROL}([\W\d_]*({CONTROL}|guides?|cells?))*[\W\d_]*([acgt]{{10,}})?", re.IGNORECASE
)

PAIR = re.compile(r"\(\)|\[\]|\{\}")


@dataclass(frozen=True)
class Names:
    """How perturbation names are read: parts between separators, sorted, without controls.

    A label is matched whole: "non+targeting" is one part wherever it stands, and neither "non" nor "targeting" is a
    control. Only a label that repeats itself, such as "ctrl+ctrl", makes its part "ctrl" a control as well.

    Parameters
    ----------
    control
        The label that controls get; None if there are none.
    separator
        Text between the parts of a combination; None if names are never split.
    others
        Labels that mean the same as `control`.
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
            part = next((run for run in self.controls.values() if pieces[: len(run)] == run), pieces[:1])
            found.append((self.separator or "").join(part))
            pieces = pieces[len(part) :]
        return found

    def is_control(self, part: str) -> bool:
        """Whether a part of a name means control.

        Parameters
        ----------
        part
            A part as `parts` gives it.

        Returns
        -------
        bool
            True for the labels of controls.
        """
        return part in self.controls

    def genes(self, raw: str) -> list[str]:
        """The perturbing parts of a name; none for a control.

        Parameters
        ----------
        raw
            A name as written.

        Returns
        -------
        list
            The parts in the order written, without controls.
        """
        return [p for p in self.parts(raw) if not self.is_control(p)]

    def canonical(self, raw: str) -> str:
        """The one spelling of a name: "B+A" and "A+B" are "A+B", "A+control" is "A".

        Parameters
        ----------
        raw
            A name as written.

        Returns
        -------
        str
            Its perturbing parts, sorted; the control's label if there are none.
        """
        genes = sorted(self.genes(raw))
        return (self.separator or "").join(genes) if genes else str(self.control)

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
        return (self.separator or "+").join(parts) or str(self.control)


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
        For an empty label, or an empty sequence of them.
    """
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


def encode_names(
    names: Names, column: str, raw: np.ndarray, dose: str | None, amounts: pd.Series | None
) -> tuple[tuple[str, ...], np.ndarray, sp.csr_matrix]:
    """Perturbations, labels and doses of all cells; every distinct (name, dose) is read once.

    Parameters
    ----------
    names
        How names are read.
    column
        Column of obs that the names come from, for messages.
    raw
        (n,) names of the cells' perturbations as written.
    dose
        Column of obs that the doses come from, for messages; None without one.
    amounts
        (n,) doses as written: a number for every part of the name, or a text such as "0.5+1.0" with one a part, in the
        order written. None for 1 each.

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
    if amounts is None:
        keys = pd.Series(raw).to_frame("raw")
    else:
        keys = pd.DataFrame({"raw": raw, "dose": amounts.astype(object).to_numpy()})
    groups = keys.groupby(list(keys.columns), dropna=False, sort=False)
    codes, cells = groups.ngroup().to_numpy(), groups.size()
    kinds = [kind if isinstance(kind, tuple) else (kind,) for kind in cells.index]

    found: list[dict[str, float]] = []
    for (name, *amount), n in zip(kinds, cells, strict=True):
        where = f"{name!r} in adata.obs[{column!r}] ({count_cells(n)})"
        genes, parts = names.genes(name), names.parts(name)
        if wrong := [(p, fault) for p in genes if (fault := name_fault(p, of=len(parts)))]:
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


def name_fault(part: str, of: int) -> str:
    """Why a part of a name is no name itself.

    Parameters
    ----------
    part
        A perturbing part of a name.
    of
        Number of parts of that name.

    Returns
    -------
    str
        What is wrong with it, such as "names nothing"; empty if it is a name.
    """
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


def check_controls(names: Names, column: str, raw: np.ndarray) -> None:
    """Refuse data without control cells if a control label was given.

    Parameters
    ----------
    names
        How names are read.
    column
        Column of obs that the names come from, for the message.
    raw
        (n,) names of the cells' perturbations as written.

    Raises
    ------
    DataError
        If no cell is labelled as control, with the likely label.
    """
    kinds = sorted(set(raw))
    if names.control is None or not all(names.genes(k) for k in kinds):
        return
    inside = [k for k in kinds if any(names.is_control(p) for p in names.parts(k))]
    likely = sorted({p for k in kinds for p in names.parts(k) if LIKE_CONTROL.fullmatch(p)})
    if inside:
        hint = f"; it stands only inside names such as {inside[0]!r}."
    elif len(likely) > 1:
        hint = f"; did you mean control=[{quoted(likely, 12)}]?"
    else:
        hint = f"; did you mean {likely[0]!r}?" if likely else did_you_mean(names.control, kinds) or "."
    labels = " or ".join(map(repr, (names.control, *names.others)))
    raise DataError(
        f"There are no control cells: no cell in adata.obs[{column!r}] is labelled {labels}{hint} "
        f"Labels found: {quoted(kinds)}; pass control=None if the experiment has none."
    )


def other_separator(names: Names, kinds: list[str]) -> tuple[str, str] | None:
    """A separator that cuts some name into perturbations that occur alone, or off a control.

    Parameters
    ----------
    names
        How names are read so far.
    kinds
        Distinct names as written.

    Returns
    -------
    tuple or None
        The separator, and such a name; None if there is none.
    """
    for separator in "+_|,;&/:".replace(str(names.separator), ""):
        trial = replace(names, separator=separator)
        genes = {raw: trial.genes(raw) for raw in kinds if not LIKE_CONTROL.fullmatch(raw)}
        alone = {parts[0] for parts in genes.values() if len(parts) == 1}
        for raw, parts in genes.items():
            if 0 < len(parts) < len(trial.parts(raw)) or len(parts) > 1 and alone.issuperset(parts):
                return separator, raw
    return None
