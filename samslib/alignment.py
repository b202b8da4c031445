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
from samslib.data.messages import quoted
from samslib.data.statistics import one_hot
from samslib.model import Model
from samslib.validation import DataError

LOG = logging.getLogger("samslib")

COLUMNS = {"perturbations": "dose", "covariates": "covariate", "quality": "qc"}  # where names -> values are


def align(data: PerturbationData, model: Model) -> PerturbationData:
    """The cells with genes, perturbations, covariate levels and quality flags as the model was made for.

    Every function that feeds cells to a model calls this, so no column is ever read as another one. Columns are matched
    by name: another order is put right, genes that the model does not have are left out (libraries are counted again),
    and perturbations or levels of which there are no cells get a column of zeros. What was changed is logged; align
    once, ahead of many calls, to be told once. Covariates and flags that the model does not read stay as they are, and
    so do targets of a model without any, unless its perturbations are others.

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
        model does not know, or without a flag that it reads; for combinations encoded in the other of the two ways; for
        a perturbation that has another target than in the model, or none; and for real values where the model was made
        for counts, or counts where it was made for real values.
    """
    check_data(data, "align")
    summary, name = model.summary, type(model).__name__
    if data.counts != summary.counts:
        given, made = ("counts" if of.counts else "real values" for of in (data, summary))
        raise DataError(f"The data are {given}, but {name} was made for {made}; make a model of these.")
    if len(lacking := pd.Index(summary.genes).difference(data.genes, sort=False)):
        lacks = f"{len(lacking)} of the model's {len(summary.genes)} genes ({quoted(lacking, 3)})"
        raise DataError(f"The data lack {lacks}; give cells with all of them, or make a model of data.summary(train).")
    aligned = data if data.genes == summary.genes else data.select_genes(list(summary.genes))
    if data.unique != summary.unique:
        if combined := np.count_nonzero(data.n_perturbations > 1):
            remedy = "give data.encode_unique()" if summary.unique else "give the data before encode_unique()"
            raise DataError(f"{combined} cells have combinations, which {name} has in the other encoding; {remedy}.")
        aligned = replace(aligned, unique=summary.unique)
    for kind, field in COLUMNS.items():
        if kind in {"perturbations", *model.uses} and getattr(data, kind) != getattr(summary, kind):
            columns = _columns(getattr(data, field), getattr(data, kind), getattr(summary, kind), kind, name)
            aligned = replace(aligned, **{kind: getattr(summary, kind), field: columns})
    if summary.targets or aligned.perturbations != data.perturbations:
        _check_targets(data, summary, name)
        aligned = aligned if aligned.targets == summary.targets else replace(aligned, targets=summary.targets)
    if changed := [kind for kind in ("genes", *COLUMNS) if getattr(aligned, kind) != getattr(data, kind)]:
        extra = len(data.genes) - len(aligned.genes)
        left_out = f" ({extra} genes that it does not have left out, libraries counted again)" if extra else ""
        LOG.warning("Put into the order of the %s by name: %s%s", name, ", ".join(changed), left_out)
    return aligned


def _check_targets(data: PerturbationData, summary: DataSummary, name: str) -> None:
    """Raises DataError for the first perturbation of the model whose target is another one in the data."""
    targets = dict(zip(data.perturbations, data.targets or [None] * len(data.perturbations), strict=True))
    for guide, target in zip(summary.perturbations, summary.targets, strict=False):
        if targets.get(guide, target) != target:
            there = f"of {targets[guide]!r}" if data.targets else "without targets"
            remedy = "give from_anndata(target=) what the model was made with"
            raise DataError(f"{guide!r} is a guide of {target!r} in {name}, and {there} in the data; {remedy}.")


def _columns(values: Any, given: Sequence[str], wanted: Sequence[str], kind: str, name: str) -> Any:
    """(n, wanted) values by the names of their columns, zero where there are none; like `values` dense or sparse."""
    at = pd.Index(wanted).get_indexer(list(given))
    lost = at < 0
    if kind != "perturbations":  # a covariate or flag that the model does not read may have any level
        there, needed = ([column.split("=")[0] for column in names] for names in (given, wanted))
        if lacking := sorted({*needed} - {*there}):
            raise DataError(f"{name} reads {kind} {lacking}, which the data lack; give them to from_anndata({kind}=).")
        lost &= np.isin(there, needed)
    others = sp.csr_matrix(values != 0)[:, lost]
    if cells := np.count_nonzero(others.getnnz(1)):
        unknown = quoted(np.array(given)[lost][others.getnnz(0) > 0], 3)
        raise DataError(f"{cells} cells have {kind} that the model does not know, {unknown}; leave them out.")
    return values @ one_hot(at, len(wanted))
