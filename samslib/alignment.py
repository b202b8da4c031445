"""Cells and a model meet by name: columns are put into the model's order, or the cells are refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from samslib.cells import DataSummary
from samslib.data.container import PerturbationData, check_data
from samslib.data.messages import quoted
from samslib.model import Model
from samslib.validation import DataError

LOG = logging.getLogger("samslib")


def align(data: PerturbationData, model: Model) -> PerturbationData:
    """The cells with genes, perturbations, covariate levels and quality flags as the model was made for.

    Every function that feeds cells to a model calls this, so no column is ever read as another one. Columns are matched
    by name: another order is put right, genes that the model does not have are left out (libraries are counted again),
    and perturbations or levels of which there are no cells get a column of zeros. What was changed is logged; align
    once, ahead of many calls, to be told once. Covariates and flags that the model does not read stay as they are.

    Parameters
    ----------
    data
        Cells, n of them.
    model
        The model that will read them; `model.summary` has its names.

    Returns
    -------
    The same n cells in the same order; `data` itself where nothing differs.

    Raises
    ------
    DataError
        For genes of the model that the data lack; for cells with a perturbation, covariate level or covariate that the
        model does not know, or without a flag that it reads; for combinations encoded in the other of the two ways; and
        for real values where the model was made for counts, or counts where it was made for real values.
    """
    check_data(data, "align")
    summary, name = model.summary, type(model).__name__
    if data.counts != summary.counts:
        kinds = {True: "counts", False: "real values"}
        remedy = "give the data that it was made for, or make a model of these"
        raise DataError(
            f"The data are {kinds[data.counts]}, but {name} was made for {kinds[summary.counts]}; {remedy}."
        )
    changed: list[str] = []
    if data.genes != summary.genes:
        data = _genes(data, summary, changed)
    if data.perturbations != summary.perturbations or data.unique != summary.unique:
        data = _perturbations(data, summary, changed)
    if "covariates" in model.uses and data.covariates != summary.covariates:
        _refuse_other_covariates(data, summary, name)
        columns = _columns(data.covariate, data.covariates, summary.covariates, "covariate level", name)
        data = replace(data, covariate=columns, covariates=summary.covariates)
        changed.append("covariate levels")
    if "quality" in model.uses and data.quality != summary.quality:
        if lacking := [flag for flag in summary.quality if flag not in data.quality]:
            remedy = "give it with from_anndata(quality=), 0 in every cell if none is of poor quality"
            raise DataError(f"{name} reads the quality flag {lacking[0]!r}, which the data lack; {remedy}.")
        columns = data.qc[:, [data.quality.index(flag) for flag in summary.quality]]
        data = replace(data, qc=columns, quality=summary.quality)
        changed.append("quality flags")
    if changed:
        LOG.warning("Put into the order of the %s by name: %s", name, ", ".join(changed))
    return data


def _genes(data: PerturbationData, summary: DataSummary, changed: list[str]) -> PerturbationData:
    position = {gene: i for i, gene in enumerate(data.genes)}
    if lacking := [gene for gene in summary.genes if gene not in position]:
        raise DataError(
            f"The data lack {len(lacking)} of the model's {len(summary.genes)} genes ({quoted(lacking, 3)}); it reads "
            "all of them: give cells with these genes, or make a model of the data's own with data.summary(train)."
        )
    extra = len(data.genes) - len(summary.genes)
    changed.append("genes" + (f" ({extra} that it does not have left out, libraries counted again)" if extra else ""))
    return data.select_genes(np.array([position[gene] for gene in summary.genes]))


def _perturbations(data: PerturbationData, summary: DataSummary, changed: list[str]) -> PerturbationData:
    combined = data.n_perturbations > 1
    if summary.unique and not data.unique and combined.any():
        raise DataError(
            f"The model was made for combinations as perturbations of their own, and {int(combined.sum())} cells have "
            "combinations of several; give data.encode_unique()."
        )
    known = set(summary.perturbations)
    used = [p for p, n in zip(data.perturbations, data.n_treated, strict=True) if n]
    if unknown := [p for p in used if p not in known]:
        cells = int(data.dose[:, [data.perturbations.index(p) for p in unknown]].getnnz(1).astype(bool).sum())
        encoded = data.unique and not summary.unique and combined.any()
        remedy = "give the data before encode_unique()" if encoded else "leave them out, or make a model of all of them"
        raise DataError(
            f"{cells} cells have perturbations that the model does not know, {quoted(unknown, 3)}; {remedy}."
        )
    position = {p: i for i, p in enumerate(summary.perturbations)}
    dose = data.dose.tocoo()
    to = np.array([position.get(p, 0) for p in data.perturbations], dtype=int)  # those without a place have no cells
    kept = dose.data != 0
    shape = (len(data), len(summary.perturbations))
    columns = sp.csr_matrix((dose.data[kept], (dose.row[kept], to[dose.col[kept]])), shape)
    if data.perturbations != summary.perturbations:
        changed.append("perturbations")
    return replace(data, dose=columns, perturbations=summary.perturbations, unique=summary.unique)


def _refuse_other_covariates(data: PerturbationData, summary: DataSummary, name: str) -> None:
    theirs, ours = ({level.split("=")[0] for level in of} for of in (data.covariates, summary.covariates))
    if lacking := sorted(ours - theirs):
        raise DataError(
            f"{name} reads the covariate {lacking[0]!r}, which the data lack; give it with "
            f"from_anndata(covariates={sorted(ours)})."
        )


def _columns(values: np.ndarray, names: Sequence[str], wanted: Sequence[str], what: str, model: str) -> np.ndarray:
    """(n, wanted) columns by name, zero where the data have none. Raises DataError for others that cells have."""
    used = [name for name, column in zip(names, values.T, strict=True) if column.any()]
    position = {name: i for i, name in enumerate(wanted)}
    same = {name.split("=")[0] for name in wanted}
    for name in used:
        if name not in position and name.split("=")[0] in same:
            cells = int((values[:, list(names).index(name)] != 0).sum())
            raise DataError(
                f"{cells} cells have the {what} {name!r}, which {model} was not made for; leave them out, or make a "
                "model of all of them."
            )
    out = np.zeros((len(values), len(wanted)), dtype=values.dtype)
    for i, name in enumerate(names):
        if name in position:
            out[:, position[name]] = values[:, i]
    return out
