"""Reading an AnnData: every column and value is checked before a model sees it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset
from pandas.api.types import is_number

from samslib.data import statistics
from samslib.data.disk import OnDisk, canonical
from samslib.data.messages import count_cells, did_you_mean, quoted
from samslib.data.names import NOTHING, Names, as_text, check_controls
from samslib.validation import DataError, require

LOG = logging.getLogger("samslib")

LEVELS = 1000  # of a covariate at most: each is a dense column


def check_anndata(value: Any, where: str) -> None:
    """Refuse what is not an AnnData.

    Parameters
    ----------
    value
        What was given as one.
    where
        Name of the function that needs it, for the message.

    Raises
    ------
    DataError
        Unless `value` has obs, var_names and layers; it says how to read or make an AnnData.
    """
    if not all(hasattr(value, part) for part in ("obs", "var_names", "layers")):
        raise DataError(f"{where} needs an AnnData, not a {type(value).__name__}; anndata.read_h5ad(path) reads one.")


def column_of(adata: Any, name: str) -> pd.Series:
    """A column of obs.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    name
        Name of the column.

    Returns
    -------
    Series
        (n,) values as they are stored.

    Raises
    ------
    DataError
        If there is no such column, with the nearest name, or more than one.
    """
    columns = list(adata.obs.columns)
    require(name in columns, f"adata.obs has no column {name!r}{_instead(name, columns)}", DataError)
    twice = f"adata.obs has {columns.count(name)} columns named {name!r}; rename or drop all but one."
    require(columns.count(name) == 1, twice, DataError)
    return adata.obs[name]


def _instead(name: Any, known: Sequence[Any]) -> str:
    """What to say after a name that is none of those that exist."""
    texts = list(map(str, known))
    return f"{did_you_mean(name, texts) or '.'} It has {quoted(texts, 12) or 'none'}."


def columns_of(adata: Any, given: str | Sequence[str] | None, what: str) -> dict[str, pd.Series]:
    """The columns of obs for one purpose.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    given
        One name, or several; None for no column.
    what
        What the columns are, such as "quality flag", for the message.

    Returns
    -------
    dict
        From each name, in the order given, to (n,) values as they are stored.

    Raises
    ------
    DataError
        If a name is given twice, or is that of no column.
    """
    names = np.atleast_1d([] if given is None else given).tolist()
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"The {what} {twice[0]!r} is given twice; give each column once.")
    return {name: column_of(adata, name) for name in names}


def texts_of(values: pd.Series) -> pd.Series:
    """Labels as text, such that types make no two labels of one.

    Bytes are decoded, and in a column of several types 1.0 is "1".

    Parameters
    ----------
    values
        (n,) labels of any types.

    Returns
    -------
    Series
        (n,) texts, "nan" where a label is missing, numbered 0, 1, 2, ...
    """
    codes, kinds = pd.factorize(values.astype(object))  # to which 1 and 1.0 are the same
    mixed = len(set(map(type, kinds))) > 1
    texts = [as_text(int(kind) if mixed and is_number(kind) and kind % 1 == 0 else kind) for kind in kinds]
    return pd.Series(np.array([*texts, "nan"], dtype=object)[codes], name=values.name, dtype=object)


def read_axes(adata: Any) -> dict[str, Any]:
    """Names of genes and cells as text, all different.

    Parameters
    ----------
    adata
        An AnnData of n cells and G genes.

    Returns
    -------
    dict
        "genes" (G,), a tuple, and "cells" (n,), an array.

    Raises
    ------
    DataError
        For fewer than two cells or one gene, and if two names are the same text.
    """
    if adata.n_obs < 2 or adata.n_vars < 1:
        raise DataError(f"The AnnData has {count_cells(adata.n_obs)} x {adata.n_vars} genes; 2 x 1 are the least.")
    genes = _unique_texts(adata.var_names, "gene", "adata.var_names")
    return {"genes": tuple(genes), "cells": _unique_texts(adata.obs_names, "cell", "adata.obs_names")}


def _unique_texts(names: pd.Index, what: str, axis: str) -> np.ndarray:
    texts = pd.Index([str(name) for name in names], dtype=object)
    if twice := list(texts[texts.duplicated()].unique()):
        remedy = f"{axis} = {axis}.astype(str); {axis}_make_unique()"
        raise DataError(f"{len(twice)} {what} name(s) occur more than once ({quoted(twice, 3)}); call {remedy}.")
    return texts.to_numpy()


def read_names(adata: Any, names: Names, column: str, dose: str | None) -> dict[str, Any]:
    """Perturbations and doses.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    names
        How names are read.
    column
        Column of obs with the names of perturbations.
    dose
        Column of obs with amounts above 0; None for 1 each.

    Returns
    -------
    dict
        What `encode_names` returns, and the labels of controls: "control" and "controls".

    Raises
    ------
    DataError
        For an absent column, labels that are missing or say nothing (empty, "nan", "none" and the like), data without
        control cells, and as `encode_names`.
    """
    raw = texts_of(values := column_of(adata, column))
    texts = raw.str.strip()
    empty = texts.str.lower().isin(NOTHING) & ~texts.isin(list(names.control_parts)) | values.isna().to_numpy()
    where = f"adata.obs[{column!r}]"
    if n := int(empty.sum()):
        raise DataError(f"{count_cells(n)} have no perturbation in {where} (empty, NaN, none); name or drop the cells.")
    check_controls(names, sorted(set(raw)), where)
    amounts = pd.Series(1.0, raw.index) if dose is None else column_of(adata, dose)
    return encode_names(names, raw, amounts) | {"control": next(iter(names.controls), None), "controls": names.controls}


def encode_names(names: Names, raw: pd.Series, amounts: pd.Series) -> dict[str, Any]:
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
    dict
        Fields of a `PerturbationData`: "perturbations", T names, sorted; "labels", (n,) canonical label of each cell's
        condition, see `Names.condition`; "raw_labels", (n,) `raw`; "dose", (n, T) CSR float32 doses, 0 in controls; and
        "n_perturbations", (n,) how many are not 0.

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
    rows = [(kind, *item) for kind, doses in enumerate(found) for item in doses.items()]
    require(rows, f"Every cell in adata.obs[{raw.name!r}] is a control; a perturbation is needed.", DataError)
    long = pd.DataFrame(rows, columns=["kind", "name", "dose"])
    columns, perturbations = pd.factorize(long["name"], sort=True)
    table = sp.csr_matrix((np.float32(long["dose"]), (long["kind"], columns)), (len(found), len(perturbations)))
    labels, doses = np.array(list(map(names.condition, found)), dtype=object)[codes], table[codes]
    fields = dict(perturbations=tuple(perturbations), labels=labels, raw_labels=raw.to_numpy(), dose=doses)
    return fields | {"n_perturbations": np.diff(doses.indptr)}


def _check_name(names: Names, name: str, where: str) -> None:
    own, cut = names.perturbations(name), len(names.parts(name)) > 1
    for part in own:
        unpaired = cut and any(part.count(left) != part.count(right) for left, right in ("()", "[]", "{}"))
        if unpaired or part.lower() in NOTHING or not any(map(str.isalnum, part)):
            remedy = "write only names of perturbations, drop the cells, or give another separator, or None"
            raise DataError(f"The perturbation {where} has a part that names nothing ({part!r}); {remedy}.")
        if own.count(part) > 1:
            raise DataError(f"The perturbation {where} names {part!r} twice; name it once, with its amount in dose=.")


def _read_doses(names: Names, name: str, amount: Any, what: str) -> dict[str, float]:
    """Dose of each perturbation in a name as written; a plain number counts for every part."""
    parts = names.parts(name)
    texts = names.cut(amount) if isinstance(amount, str) else [amount] * len(parts)
    doses = {part: pd.to_numeric(text, errors="coerce") for part, text in zip(parts, texts, strict=False)}
    used = {part: doses.get(part, np.nan) for part in names.perturbations(name)}
    valid = all(0 < dose < np.inf for dose in used.values()) and (not used or len(texts) == len(parts))
    wrong = f"{what} is not a number for each of {len(parts)} part(s), finite and above zero"
    require(valid, f"{wrong}; a cell without a perturbation should not be named after it.", DataError)
    return used


def read_targets(adata: Any, given: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The target of each perturbation, where perturbations are guides.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    given
        A mapping, Series or function from guide to target; or a column of obs, of which the cells with a single
        perturbation count; None for no targets.
    fields
        What `encode_names` returned of the same cells.

    Returns
    -------
    dict
        "targets", (T,) texts; empty without targets.

    Raises
    ------
    DataError
        For an absent column, a guide without a target or with two in the column, and one that is alone in no cell, of
        which a column cannot tell the target.
    """
    if given is None:
        return {"targets": ()}
    if not (isinstance(given, str | Mapping | pd.Series) or callable(given)):
        what = "a column of obs, a mapping from guide to target, or a function"
        raise DataError(f"target is a {type(given).__name__}; give {what}.")
    guides = pd.Index(fields["perturbations"])
    table = _targets_of_cells(adata, given, guides, fields) if isinstance(given, str) else given
    found = guides.to_series().map(table)
    texts = found.astype(str).str.strip()
    if len(wrong := guides[found.isna() | texts.str.lower().isin(NOTHING)]):
        raise DataError(f"{len(wrong)} perturbations have no target ({quoted(wrong, 3)}); give each of them one.")
    return {"targets": tuple(texts)}


def _targets_of_cells(adata: Any, column: str, guides: pd.Index, fields: Mapping[str, Any]) -> pd.Series:
    """The target of each guide in the cells that have it alone."""
    where, remedy = f"adata.obs[{column!r}]", "mend the column, or give target= a mapping from guide to target"
    alone, texts = fields["n_perturbations"] == 1, texts_of(column_of(adata, column)).str.strip()
    table = pd.DataFrame({"guide": guides[fields["dose"][alone].indices], "target": texts[alone]})
    if len(lacking := table["guide"][table["target"].str.lower().isin(NOTHING)]):
        raise DataError(
            f"{count_cells(len(lacking))} have no target in {where}, such as {lacking.iloc[0]!r}; {remedy}."
        )
    found = table.drop_duplicates().set_index("guide")["target"]
    for guide in found.index[found.index.duplicated()]:
        raise DataError(f"Cells of {guide!r} have the targets {quoted(found[guide].tolist())} in {where}; {remedy}.")
    if len(absent := guides.difference(found.index)):
        why = "whose cells do not say which target is whose; give target= a mapping from guide to target"
        raise DataError(f"{len(absent)} perturbations are alone in no cell of {where} ({quoted(absent, 3)}), {why}.")
    return found


def read_covariates(adata: Any, given: str | Sequence[str]) -> dict[str, Any]:
    """Categorical covariates, one-hot encoded.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    given
        Columns of obs. Each has at most 1,000 levels (`LEVELS`), and beyond 20 levels at most half as many as cells, a
        tenth if it holds numbers.

    Returns
    -------
    dict
        "covariate", (n, C) float32, 1 for the level of each column that a cell has and 0 elsewhere; and "covariates",
        C names "column=level", sorted within a column.

    Raises
    ------
    DataError
        If a column is absent, or has missing values, a '=' in its name, numbers that are not whole or too many levels.
    """
    table = pd.DataFrame(index=range(adata.n_obs))
    for name, values in columns_of(adata, given, "covariate").items():
        table = table.join(pd.get_dummies(_read_levels(name, values), prefix=name, prefix_sep="=", dtype=np.float32))
    return {"covariate": table.to_numpy(np.float32), "covariates": tuple(table.columns)}


def _read_levels(name: str, values: pd.Series) -> pd.Series:
    """(n,) levels of a covariate as text."""
    spelt = texts_of(values)
    texts = spelt.str.strip()
    if missing := int(texts.str.lower().isin(["", "nan", "<na>", "na"]).sum()):
        raise DataError(f"The covariate adata.obs[{name!r}] is missing in {count_cells(missing)}; fill or drop them.")
    require("=" not in name, f"The covariate {name!r} has a '=' in its name, a mark of levels; rename it.", DataError)
    numeric = values.dtype.kind in "iuf"
    continuous, levels = numeric and (values % 1 != 0).any(), texts.nunique()
    few = not continuous and levels <= min(LEVELS, max(20, len(texts) // (10 if numeric else 2)))
    what = "is continuous" if continuous else f"has {levels} levels in {count_cells(len(texts))}"
    require(few, f"The covariate adata.obs[{name!r}] {what}; give few levels, of numbers with pd.cut.", DataError)
    if merged := spelt.nunique() - levels:
        LOG.warning("%d levels of adata.obs[%r] differ from others only in blanks and are the same", merged, name)
    return texts


def read_flags(adata: Any, given: str | Sequence[str] | None) -> dict[str, Any]:
    """Quality flags as 0/1. A flag that is 1 in more than half of the cells is logged as a warning.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    given
        Q columns of obs; 1 marks a cell of poor quality.

    Returns
    -------
    dict
        "qc", (n, Q) float32, 0 or 1; and "quality", the Q names.

    Raises
    ------
    DataError
        If a column is absent or holds another value, a missing one included.
    """
    flags = pd.DataFrame(index=adata.obs.index)
    for name, values in columns_of(adata, given, "quality flag").items():
        flags[name] = pd.to_numeric(values.astype(object), errors="coerce")
        if wrong := int((~flags[name].isin([0, 1])).sum()):
            raise DataError(f"The quality flag adata.obs[{name!r}] is not 0 or 1 in {count_cells(wrong)}; 1 is poor.")
        if (share := 100 * flags[name].mean()) > 50:
            LOG.warning("The quality flag %r is 1 in %.0f%% of cells; 1 marks a cell of poor quality", name, share)
    return {"qc": flags.to_numpy(np.float32), "quality": tuple(flags.columns)}


def matrix_name(layer: str | None) -> str:
    """How a user writes the matrix.

    Parameters
    ----------
    layer
        Name of a layer; None for X.

    Returns
    -------
    str
        Python of an AnnData called `adata`.
    """
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def read_matrix(adata: Any, layer: str | None, counts: bool) -> tuple[Any, np.ndarray]:
    """The matrix of expression, checked, and its row sums.

    Parameters
    ----------
    adata
        An AnnData of n cells and G genes.
    layer
        Layer that holds the values; None for X.
    counts
        Whether values must be counts: whole, not negative and at most 2**24, which float32 holds exactly. Real values
        only have to be finite in float32.

    Returns
    -------
    x
        (n, G), on disk if it is CSR there, else in memory as CSR float32, or as a float32 array for dense real values.
    library
        (n,) sums over genes of counts; 1 for real values.

    Raises
    ------
    DataError
        For an unknown layer, no matrix, values that are no numbers or not allowed, or a sparse matrix of float16.
    """
    stored = _stored_matrix(adata, layer)
    on_disk = isinstance(stored, CSRDataset)
    blocks, totals, bad = [], [], Counter[str]()
    step = max(1, statistics.BLOCK // adata.n_vars)
    for start in range(0, adata.n_obs, step):
        part = stored[start : start + step]
        block = canonical(part)
        rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        for kind, wrong in _faults(block.data, counts):
            bad[kind] += len(np.unique(rows[wrong]))
        with np.errstate(over="ignore"):  # which is refused below
            block = block.astype(np.float32)
        totals.append(statistics.row_totals(block))
        if not on_disk:
            blocks.append(block if counts or sp.issparse(part) else block.toarray())
    if found := [(kind, cells) for kind, cells in bad.items() if cells]:
        raise DataError(_why_refused(adata, layer, *found[0], counts))
    library = np.concatenate(totals) if counts else np.ones(adata.n_obs)
    if on_disk:
        return OnDisk(stored), library
    return sp.vstack(blocks, format="csr") if sp.issparse(blocks[0]) else np.vstack(blocks), library


def _stored_matrix(adata: Any, layer: str | None) -> Any:
    """X or a layer, on disk where it can be read by rows from there."""
    if layer is not None and layer not in adata.layers:
        raise DataError(f"adata.layers has no {layer!r}{_instead(layer, list(adata.layers))} layer=None is adata.X.")
    stored = adata.X if layer is None else adata.layers[layer]
    require(stored is not None, "adata.X is empty; name the layer that holds the counts with layer=.", DataError)
    if adata.isbacked and layer is None and not isinstance(stored, CSRDataset):
        LOG.warning("adata.X is read into memory; a CSR matrix in a file, and no view of it, would stay on disk")
    stored = stored.to_memory() if isinstance(stored, CSCDataset) else stored
    sparse_half = stored.dtype == np.float16 and (sp.issparse(stored) or isinstance(stored, CSRDataset))
    if sparse_half or stored.dtype.kind not in "biuf":
        raise DataError(f"The matrix holds {stored.dtype} values, which cannot be read; store it as float32.")
    return sp.csr_matrix(stored) if sp.issparse(stored) else stored


def _faults(values: np.ndarray, counts: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Each kind of bad value, the worst first, and which values are of it."""
    yield "NaN", np.isnan(values)
    yield "infinite", np.isinf(values)
    if counts:
        yield "negative", values < 0
        yield "fractional", values != np.rint(values)
    yield "too large", np.abs(values) > (2**24 if counts else np.finfo(np.float32).max)  # float32 holds no more


def _why_refused(adata: Any, layer: str | None, kind: str, cells: int, counts: bool) -> str:
    what = f"{matrix_name(layer)} has {kind} values in {count_cells(cells)}"
    if kind in ("NaN", "infinite", "too large"):
        return f"{what}; float32 must hold them, counts at most 2**24: mend these cells, or drop them."
    others = {f"layer={name!r}": adata.layers[name] for name in adata.layers if name != layer}
    others |= {"layer=None (adata.X)": None if layer is None else adata.X}
    others |= {"adata.raw.to_adata() in place of adata": getattr(adata.raw, "X", None)}
    looks = [name for name, matrix in others.items() if _looks_raw(matrix)]
    remedy = f"raw seems {looks[0]}: pass that" if looks else "no other layer looks raw: read the file of raw counts"
    return f"{what}, but raw counts are needed (counts=False: real values, Normal likelihood); {remedy}."


def _looks_raw(matrix: Any) -> bool:
    """Whether the first rows of a matrix have whole, non-negative values, not all zero."""
    if matrix is None or matrix.dtype.kind not in "iuf":
        return False
    values = canonical(matrix[:200]).data
    return len(values) > 0 and not any(wrong.any() for _, wrong in _faults(values, counts=True))
