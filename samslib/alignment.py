"""Cells and a model meet by name: columns are put into the model's order, or the cells are refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib.cells import DataSummary
from samslib.data.container import PerturbationData, check_data
from samslib.data.statistics import one_hot
from samslib.model import Model
from samslib.validation import DataError, quoted

LOG = logging.getLogger("samslib")

KINDS = ("genes", "perturbations", "covariates", "quality")  # of columns that are matched


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
        given, made = ("counts" if of.counts else "real values" for of in (data, summary))
        remedy = "give the data that it was made for, or make a model of these"
        raise DataError(f"The data are {given}, but {name} was made for {made}; {remedy}.")
    aligned = _with_perturbations(_with_genes(data, summary), summary)
    if "covariates" in model.uses:
        aligned = _with_covariates(aligned, summary, name)
    if "quality" in model.uses:
        aligned = _with_flags(aligned, summary, name)
    if changed := [kind for kind in KINDS if getattr(aligned, kind) != getattr(data, kind)]:
        extra = len(data.genes) - len(aligned.genes)
        left_out = f" ({extra} genes that it does not have left out, libraries counted again)" if extra else ""
        LOG.warning("Put into the order of the %s by name: %s%s", name, ", ".join(changed), left_out)
    return aligned


def _with_genes(data: PerturbationData, summary: DataSummary) -> PerturbationData:
    if data.genes == summary.genes:
        return data
    there = set(data.genes)
    if lacking := [gene for gene in summary.genes if gene not in there]:
        remedy = "give cells with these genes, or make a model of the data's own with data.summary(train)"
        many = f"{len(lacking)} of the model's {len(summary.genes)} genes ({quoted(lacking, 3)})"
        raise DataError(f"The data lack {many}; it reads all of them: {remedy}.")
    return data.select_genes(pd.Index(data.genes).get_indexer(summary.genes))


def _with_perturbations(data: PerturbationData, summary: DataSummary) -> PerturbationData:
    if data.perturbations == summary.perturbations and data.unique == summary.unique:
        return data
    combined, remedy = int((data.n_perturbations > 1).sum()), "leave them out, or make a model of all of them"
    if combined and data.unique != summary.unique:
        remedy = "give the data before encode_unique()"
        if summary.unique:
            what = f"and {combined} cells have combinations of several; give data.encode_unique()"
            raise DataError(f"The model was made for combinations as perturbations of their own, {what}.")
    dose = _columns(data.dose, data.perturbations, summary.perturbations, "perturbations", remedy)
    return replace(data, dose=dose, perturbations=summary.perturbations, unique=summary.unique)


def _with_covariates(data: PerturbationData, summary: DataSummary, name: str) -> PerturbationData:
    if data.covariates == summary.covariates:
        return data
    there, needed = ([level.split("=")[0] for level in of.covariates] for of in (data, summary))
    _check_columns("covariate", there, needed, name, f"from_anndata(covariates={sorted(set(needed))})")
    read = np.isin(there, needed)
    levels, remedy = np.array(data.covariates)[read], "leave them out, or make a model of all of them"
    found = _columns(data.covariate[:, read], levels, summary.covariates, "covariate levels", remedy)
    return replace(data, covariate=found.toarray(), covariates=summary.covariates)


def _with_flags(data: PerturbationData, summary: DataSummary, name: str) -> PerturbationData:
    if data.quality == summary.quality:
        return data
    remedy = "from_anndata(quality=), 0 in every cell if none is of poor quality"
    _check_columns("quality flag", data.quality, summary.quality, name, remedy)
    return replace(data, qc=data.qc[:, pd.Index(data.quality).get_indexer(summary.quality)], quality=summary.quality)


def _check_columns(what: str, there: Sequence[str], needed: Sequence[str], name: str, remedy: str) -> None:
    if lacking := sorted(set(needed) - set(there)):
        raise DataError(f"{name} reads the {what} {lacking[0]!r}, which the data lack; give it with {remedy}.")


def _columns(values: Any, names: Sequence[str], wanted: Sequence[str], what: str, remedy: str) -> sp.csr_matrix:
    """(n, wanted) columns by name, zero where there are none. Refuses cells that have others."""
    at, values = pd.Index(wanted).get_indexer(list(names)), sp.csr_matrix(values)
    lost = (values != 0)[:, at < 0]
    if cells := np.count_nonzero(lost.getnnz(1)):
        unknown = np.array(names)[at < 0][lost.getnnz(0) > 0]
        raise DataError(f"{cells} cells have {what} that the model does not know, {quoted(unknown, 3)}; {remedy}.")
    return values @ one_hot(at, len(wanted))
