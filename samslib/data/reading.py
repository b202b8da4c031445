"""Reading an AnnData: every column and value is checked before a model sees it."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib.data import statistics
from samslib.data.conditions import Conditions
from samslib.data.disk import OnDisk, canonical
from samslib.data.messages import count_cells, did_you_mean, quoted
from samslib.data.names import (
    LIKE_CONTROL,
    NOTHING,
    Names,
    check_controls,
    encode_names,
    other_separator,
    read_naming,
)
from samslib.data.statistics import row_totals
from samslib.validation import DataError

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
        remedy = "anndata.read_h5ad(path) reads one, anndata.AnnData(X) makes one"
        raise DataError(f"{where} needs an AnnData, not a {type(value).__name__}; {remedy}.")


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
    if not isinstance(name, Hashable) or name not in adata.obs:
        columns = list(map(str, adata.obs.columns))
        hint = did_you_mean(name, columns) or "."
        raise DataError(f"adata.obs has no column {name!r}{hint} Its columns: {quoted(columns, 12) or 'none'}.")
    if isinstance(found := adata.obs[name], pd.DataFrame):
        raise DataError(f"adata.obs has {found.shape[1]} columns named {name!r}; rename or drop all but one.")
    return found


def column_names(given: str | Sequence[str] | None, what: str) -> tuple[str, ...]:
    """The names of columns of obs for one purpose.

    Parameters
    ----------
    given
        One name, or several; None for no column.
    what
        What the columns are, such as "quality flag", for the message.

    Returns
    -------
    tuple
        The names, in the order given.

    Raises
    ------
    DataError
        If a name is given twice.
    """
    names = (given,) if isinstance(given, str) else () if given is None else tuple(given)
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"The {what} {twice[0]!r} is given twice; give each column once.")
    return names


def unique_names(names: pd.Index, what: str, axis: str) -> np.ndarray:
    """Names of genes or cells as text, all different.

    Parameters
    ----------
    names
        (n,) names as they are stored.
    what
        What they name, "gene" or "cell", for the message.
    axis
        The axis of the AnnData that they stand on, "var" or "obs", for the message.

    Returns
    -------
    array
        (n,) texts, in the same order.

    Raises
    ------
    DataError
        If two names are the same text.
    """
    texts = pd.Index([str(name) for name in names], dtype=object)
    if twice := texts[texts.duplicated()].unique().tolist():
        first = "" if names.has_duplicates else f"adata.{axis}_names = adata.{axis}_names.astype(str); "
        remedy = f"{first}adata.{axis}_names_make_unique()"
        raise DataError(f"{len(twice)} {what} name(s) occur more than once ({quoted(twice, 3)}); call {remedy}.")
    return texts.to_numpy()


def texts_of(values: pd.Series) -> np.ndarray:
    """Labels as text, such that types make no two labels of one.

    Bytes are decoded, and in a column of several types 1.0 is "1".

    Parameters
    ----------
    values
        (n,) labels of any types.

    Returns
    -------
    array
        (n,) texts, "nan" where a label is missing.
    """
    codes, kinds = pd.factorize(values.astype(object))  # to which 1 and 1.0 are the same
    mixed = len({type(kind) for kind in kinds}) > 1

    def text(kind: Any) -> str:
        if isinstance(kind, bytes):
            return kind.decode()
        whole = mixed and isinstance(kind, Real) and not isinstance(kind, bool) and float(kind).is_integer()
        return str(int(kind)) if whole else str(kind)

    return np.array([*map(text, kinds), "nan"], dtype=object)[codes]


def read_labels(adata: Any, column: str, names: Names) -> np.ndarray:
    """Perturbation labels as text.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    column
        Column of obs that holds the labels.
    names
        How names are read, so that a control's label is none of those that say nothing.

    Returns
    -------
    array
        (n,) texts as they were written.

    Raises
    ------
    DataError
        If there is no such column, or if labels are missing or say nothing (empty, "nan", "none" and the like).
    """
    found = column_of(adata, column)
    raw = texts_of(found)
    kinds, codes = np.unique(raw.astype(str), return_inverse=True)
    empty = np.array([k.strip().lower() in NOTHING and not names.is_control(k.strip()) for k in kinds])
    if n := int((empty[codes] | found.isna().to_numpy()).sum()):
        remedy = "name them, or drop the cells: adata = adata[keep].copy()"
        raise DataError(
            f"{count_cells(n)} have no perturbation in adata.obs[{column!r}] (empty, NaN or 'none'); {remedy}"
        )
    return raw


def read_covariates(adata: Any, columns: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Categorical covariates, one-hot encoded.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    columns
        Columns of obs. Each has at most 1,000 levels (`LEVELS`), and beyond 20 levels at most half as many as cells, a
        tenth if it holds numbers.

    Returns
    -------
    covariate
        (n, C) float32, 1 for the level of each column that a cell has and 0 elsewhere.
    covariates
        C names "column=level", sorted within a column.

    Raises
    ------
    DataError
        If a column is absent, or has missing values, a '=' in its name, numbers that are not whole or too many levels.
    """
    blocks, levels = [np.zeros((adata.n_obs, 0), dtype=np.float32)], []
    for column in columns:
        values = column_of(adata, column)
        spelt = texts_of(values)
        texts = np.array([text.strip() for text in spelt], dtype=str)
        if missing := int(np.isin(np.char.lower(texts), ["", "nan", "<na>", "na"]).sum()):
            raise DataError(
                f"The covariate adata.obs[{column!r}] is missing in {count_cells(missing)}; fill or drop them."
            )
        if "=" in column:
            raise DataError(f"The covariate {column!r} has a '=' in its name, which is for levels; rename the column.")
        kinds, codes = np.unique(texts, return_inverse=True)
        numeric = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
        continuous = pd.api.types.is_float_dtype(values.dtype) and (values % 1 != 0).any()
        if continuous or len(kinds) > min(LEVELS, max(20, len(texts) // (10 if numeric else 2))):
            what = "is continuous" if continuous else f"has {len(kinds)} levels in {count_cells(len(texts))}"
            remedy = "cut it into levels, with pd.cut for one" if numeric else "give a column with few levels"
            raise DataError(f"The covariate adata.obs[{column!r}] {what}; {remedy}.")
        if merged := len(set(spelt)) - len(kinds):
            LOG.warning("%d levels of adata.obs[%r] differ from others only in blanks and are the same", merged, column)
        block = np.zeros((len(texts), len(kinds)), dtype=np.float32)
        block[np.arange(len(texts)), codes] = 1
        blocks.append(block)
        levels += [f"{column}={kind}" for kind in kinds]
    return np.hstack(blocks), tuple(levels)


def read_flags(adata: Any, columns: tuple[str, ...]) -> np.ndarray:
    """Quality flags as 0/1. A flag that is 1 in more than half of the cells is logged as a warning.

    Parameters
    ----------
    adata
        An AnnData of n cells.
    columns
        Q columns of obs; 1 marks a cell of poor quality.

    Returns
    -------
    array
        (n, Q) float32, 0 or 1.

    Raises
    ------
    DataError
        If a column is absent or holds another value, a missing one included.
    """
    qc = np.zeros((adata.n_obs, len(columns)), dtype=np.float32)
    for i, column in enumerate(columns):
        values = pd.to_numeric(column_of(adata, column).astype(object), errors="coerce").astype(float)
        if wrong := int((~values.isin([0, 1])).sum()):
            remedy = "1 marks a cell of poor quality, 0 a good one"
            raise DataError(f"The quality flag adata.obs[{column!r}] is not 0 or 1 in {count_cells(wrong)}; {remedy}.")
        if (share := values.mean()) > 0.5:
            text = "The quality flag %r is 1 in %.0f%% of cells; 1 marks a cell of poor quality"
            LOG.warning(text, column, 100 * share)
        qc[:, i] = values
    return qc


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
    total
        (n,) sums over genes.

    Raises
    ------
    DataError
        For an unknown layer, no matrix, values that are no numbers or not allowed, or a sparse matrix of float16.
    """
    if layer is not None and layer not in adata.layers:
        known = list(map(str, adata.layers))
        hint = did_you_mean(layer, known) or "."
        raise DataError(
            f"adata.layers has no {layer!r}{hint} Layers: {quoted(known) or 'none'}; layer=None is adata.X."
        )
    stored = adata.X if layer is None else adata.layers[layer]
    if stored is None:
        raise DataError("adata.X is empty; name the layer that holds the counts with layer=.")
    from anndata.abc import CSCDataset, CSRDataset  # here, for it takes long to import: whoever has an AnnData has it

    on_disk = isinstance(stored, CSRDataset)
    if adata.isbacked and layer is None and not on_disk:
        LOG.warning("adata.X is read into memory; a CSR matrix in a file, and no view of it, would stay on disk")
    stored = stored.to_memory() if isinstance(stored, CSCDataset) else stored
    if (on_disk or sp.issparse(stored)) and stored.dtype == np.float16:
        raise DataError(
            "The matrix is sparse and holds float16 values, which SciPy does not take; store it as float32."
        )
    stored = sp.csr_matrix(stored) if sp.issparse(stored) else stored
    step = max(1, statistics.BLOCK // adata.n_vars)
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
        totals.append(row_totals(block))
        if not on_disk:
            blocks.append(block)
    for kind, n in bad.items():
        if n:
            raise DataError(_bad_counts(adata, layer, kind, n, counts))
    total = np.concatenate(totals)
    if on_disk:
        return OnDisk(stored), total
    return sp.vstack(blocks, format="csr") if sp.issparse(blocks[0]) else np.concatenate(blocks), total


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
    what = f"{matrix} has {kind} values in {count_cells(cells)}"
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


def read_fields(
    adata: Any,
    perturbation: str,
    control: str | Sequence[str] | None,
    separator: str | None,
    layer: str | None,
    covariates: str | Sequence[str],
    dose: str | None,
    quality: str | Sequence[str] | None,
    counts: bool,
) -> dict[str, Any]:
    """The fields of a `PerturbationData`, checked.

    Parameters
    ----------
    adata
        An AnnData of at least two cells and one gene.
    perturbation
        Column of obs with the names of perturbations.
    control
        Label of control cells, or several, which all become the first; None without controls.
    separator
        Text between the parts of a combination; None if names are never split.
    layer
        Layer that holds the values; None for X.
    covariates
        Categorical columns of obs.
    dose
        Column of obs with amounts above 0; None for 1 each.
    quality
        Columns of 0/1 flags, 1 a cell of poor quality; None for none.
    counts
        Whether the values are counts; False for real values.

    Returns
    -------
    dict
        From the name of each field to its value. Likely mistakes in names are logged as warnings.

    Raises
    ------
    DataError
        For anything that cannot be modelled, with the remedy; see `PerturbationData.from_anndata`.
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
    qc = read_flags(adata, flags)
    if counts and (empty := int((total == 0).sum())):
        matrix = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        remedy = f"adata = adata[np.asarray({matrix}.sum(1)).ravel() > 0].copy()"
        raise DataError(f"{count_cells(empty)} of {adata.n_obs} have no counts; drop them: {remedy}")
    for doubt in doubts(Conditions(names, perturbations, labels, raw, doses)):
        LOG.warning(doubt)
    return dict(
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
        qc=qc,
        covariates=levels,
        quality=flags,
        separator=separator,
        counts=counts,
        controls=() if names.control is None else (names.control, *names.others),
    )


def doubts(cells: Conditions) -> Iterator[str]:
    """Names that were rewritten, and names that are likely a mistake.

    Parameters
    ----------
    cells
        Names and doses of all cells, as they were read.

    Returns
    -------
    Iterator
        A sentence for each doubt.
    """
    names, table = cells.naming, cells.report
    controls = () if names.control is None else (names.control, *names.others)
    n_perturbations = np.diff(cells.dose.indptr)
    changed = table["canonical"][table.index != table["canonical"]]
    if len(changed):
        example = "; ".join(f"{raw!r} is now {new!r}" for raw, new in changed.head(3).items())
        merged = len(table) - table["canonical"].nunique()
        yield (
            f"{len(changed)} of {len(table)} perturbation names rewritten ({example}), {merged} merged with another; "
            "data.names has all"
        )
    found = {part for raw in table.index for part in names.parts(raw)}
    if absent := [label for label in controls if names.parts(label)[0] not in found]:
        yield f"No cell is labelled {quoted(absent)}, as controls were said to be"
    pieces = {piece for run in names.controls.values() for piece in run}
    if likely := [p for p in cells.perturbations if LIKE_CONTROL.fullmatch(p) or p in pieces]:
        remedy = f"if they are, pass control=[{quoted([*controls, *likely], 12)}]"
        yield f"Perturbations that look like controls: {quoted(likely)}; {remedy}"
    lower = pd.Series(cells.perturbations, index=[p.casefold() for p in cells.perturbations])
    if alike := list(lower[lower.index.duplicated(keep=False)].sort_index()):
        yield f"Perturbations that differ only in case: {quoted(alike)}; if they are the same, write them in one way"
    if (n_perturbations > 1).any():
        alone = set(cells.names[n_perturbations == 1])
        if never := [p for p in cells.perturbations if p not in alone]:
            example = next(raw for raw in table.index if len(genes := names.genes(raw)) > 1 and not alone >= {*genes})
            remedy = f"if names such as {example!r} are no combinations, pass another separator, or separator=None"
            yield f"Perturbations that occur in combinations only: {quoted(never, 3)}; {remedy}"
    elif names.separator and (other := other_separator(names, list(table.index))):
        yield f"No name holds {names.separator!r}, but {other[1]!r} looks like a combination: separator={other[0]!r}?"
