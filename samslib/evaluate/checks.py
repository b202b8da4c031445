"""Posterior predictive checks: would cells drawn from the fitted model show what the observed cells show?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest, kstest
from torch import Tensor

from samslib.cells import Plate
from samslib.data.container import PerturbationData
from samslib.data.messages import did_you_mean
from samslib.evaluate.effects import draw, requested_arms
from samslib.evaluate.streams import evaluating, portions
from samslib.evaluate.tables import READOUTS
from samslib.model import Model
from samslib.trace import Trace
from samslib.validation import DataError, choose, require, whole

MOST = 64  # replicates held at once
Summary = Callable[[Tensor, Tensor], Tensor]


def effect(treated: Tensor, control: Tensor) -> Tensor:
    """Mean over treated cells minus mean over control cells, averaged over the gene set.

    Parameters
    ----------
    treated
        (R, n, k) readout of n treated cells and k genes in R replicates.
    control
        (R, n0, k) readout of n0 control cells.

    Returns
    -------
    Tensor
        (R,) in the unit of the readout.
    """
    return (treated.mean(1) - control.mean(1)).mean(-1)


def variance(treated: Tensor, control: Tensor) -> Tensor:
    """Sample variance over treated cells, averaged over the gene set.

    Parameters
    ----------
    treated
        (R, n, k) readout of n treated cells and k genes in R replicates.
    control
        (R, n0, k) readout of n0 control cells; not used.

    Returns
    -------
    Tensor
        (R,) in the squared unit of the readout.
    """
    return treated.var(1).mean(-1)


def zero_fraction(treated: Tensor, control: Tensor) -> Tensor:
    """Share of zeros among the treated cells' values of the gene set.

    Parameters
    ----------
    treated
        (R, n, k) readout of n treated cells and k genes in R replicates.
    control
        (R, n0, k) readout of n0 control cells; not used.

    Returns
    -------
    Tensor
        (R,) between 0 and 1.
    """
    return (treated == 0).to(treated.dtype).mean((1, 2))


def correlation(treated: Tensor, control: Tensor) -> Tensor:
    """Pearson correlation of two genes over treated cells, averaged over all pairs of the gene set.

    A pair with a gene that does not vary counts as 0.

    Parameters
    ----------
    treated
        (R, n, k) readout of n treated cells and k genes in R replicates.
    control
        (R, n0, k) readout of n0 control cells; not used.

    Returns
    -------
    Tensor
        (R,) between -1 and 1.

    Raises
    ------
    ValueError
        For a set of one gene.
    """
    k = treated.shape[-1]
    if k < 2:
        raise ValueError("A correlation needs two genes or more in a set; give genes={'name': ['gene', 'gene']}.")
    y = torch.nn.functional.normalize(treated - treated.mean(1, keepdim=True), dim=1)
    once = y.square().sum((1, 2))
    return (y.sum(-1).square().sum(1) - once) / (k * (k - 1))  # the square of a sum of genes holds every pair twice


SUMMARIES: dict[str, Summary] = {f.__name__: f for f in (effect, variance, zero_fraction, correlation)}


def predictive_check(
    model: Model,
    data: PerturbationData,
    summaries: Sequence[str | Summary] = ("effect", "variance", "zero_fraction"),
    genes: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    perturbations: Sequence[str] | None = None,
    readout: str | None = None,
    replicates: int = 200,
    resamples: int = 200,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Observed summaries T(x) beside their posterior predictive law, for every perturbation.

    One replicate is one draw of the shared latents from the posterior; with it, every observed cell of a condition
    and every control is drawn anew: its own latents from the prior under its condition, its library size, doses,
    covariates and flags as observed. So T is computed on as many cells, at the same depth, as it is in the data. The
    noise of counting belongs to its law, so nothing of it is taken away here, as control variates do in effects.

    For a model fitted to these same cells the p-values are conservative, drawn to 1/2. Rows share their controls and,
    where names have parts in common, latents. Held at once: a block of replicates of one condition and the controls.

    Parameters
    ----------
    model
        A trained model.
    data
        Cells to compare with, controls among them.
    summaries
        Names of `SUMMARIES`, or functions (treated (R, n, k), control (R, n0, k)) -> (R,) of the readout of one gene
        set in R replicates, known by their names.
    genes
        Sets of genes by name; or a list of genes, each a set of its own. None: one set of all genes.
    perturbations
        Conditions as in `data.labels`. None: all but the control.
    readout
        The function of expression that is summarised; a name of `READOUTS`. None: "perturbseq" for counts, "mean"
        (values as they are) for reals.
    replicates
        Number of draws from the posterior predictive law, at least 2.
    resamples
        Number of bootstrap samples of the observed cells, at least 2.
    seed
        Seed of the draws and the bootstrap samples.

    Returns
    -------
    DataFrame
        A row for each ("perturbation", "summary", "genes"): "cells"; "observed" and its "standard_error", by bootstrap
        over treated and over control cells; "replicated_mean", "replicated_sd" and the 95% interval "replicated_low" to
        "replicated_high"; "p_above", the share of replicates above the observed value, with ties and the observed value
        itself counted half (a mid-p: of mean 1/2 under a true model even where T is discrete); "p_below", 1 - p_above;
        "p_two_sided", twice the smaller one, at least 1 / (replicates + 1).

    Raises
    ------
    DataError
        For unknown genes or perturbations, an empty gene set, no controls, or a condition of one cell.
    ValueError
        For an unknown summary or readout, for fewer than 2 replicates or resamples, or for a summary that is not
        finite.

    References
    ----------
    Gelman et al. (1996), Posterior predictive assessment of model fitness via realized discrepancies.
    """
    replicates, resamples = whole("replicates", replicates, 2), whole("resamples", resamples, 2)
    data, obs, _ = requested_arms(model, data, perturbations)
    read = choose("readout", readout or ("perturbseq" if data.counts else "mean"), READOUTS)
    functions = [choose("summary", s, SUMMARIES) if isinstance(s, str) else s for s in summaries]
    sets = _gene_sets(data, genes)
    members = _members(data, list(obs.index))

    def summarise(treated: Tensor, control: Tensor) -> Tensor:
        """(R, summaries x sets) of values (R, n, G) and (R, n0, G)."""
        found = [f(treated[..., at], control[..., at]) for f in functions for at in sets.values()]
        return torch.stack(found, -1).double()

    with evaluating(model, seed) as like:
        cells = (data.batch(rows, like.dtype).to(like.device) for rows in members.values())  # one condition at a time
        observed = _observe((read(b.x) for b in cells), summarise, resamples)
        conditions = [data.batch(rows, like.dtype).condition.to(like.device) for rows in members.values()]
        replicated = _replicate(model, conditions, read, summarise, replicates)
    kinds = product(list(members)[1:], [f.__name__ for f in functions], sets)
    labels = pd.DataFrame(kinds, columns=["perturbation", "summary", "genes"])
    labels["cells"] = labels["perturbation"].map({name: len(rows) for name, rows in members.items()})
    return labels.join(_compare(observed[0], observed[1:], replicated, labels))


def calibration(table: pd.DataFrame, p: str = "p_two_sided", level: float = 0.05) -> pd.DataFrame:
    """Are the p-values of a predictive check uniform over perturbations, as they are when the model is true?

    Parameters
    ----------
    table
        What `predictive_check` returned: a row a p-value, with columns "summary" and "genes".
    p
        Column of the p-values.
    level
        A p-value up to this one counts as a rejection.

    Returns
    -------
    DataFrame
        A row for each ("summary", "genes"): number of "perturbations"; the Kolmogorov-Smirnov distance "ks" from the
        uniform law and its "p_value", which takes the perturbations as independent; "rejected", the share of them with
        p <= `level`, and its exact 95% interval "low" to "high".

    Raises
    ------
    ValueError
        For a table without the column `p`, or one whose p-values are no probabilities.
    """
    if missing := sorted({"summary", "genes", p} - set(table)):
        raise ValueError(f"The table has no column {missing[0]!r}; give what predictive_check returned.")
    if not table[p].between(0, 1).all():
        raise ValueError(f"Column {p!r} holds values that are no probabilities; give what predictive_check returned.")
    rows = []
    for (summary, genes), values in table.groupby(["summary", "genes"], sort=False)[p]:
        test, below = kstest(values, "uniform"), int((values <= level).sum())
        interval = binomtest(below, len(values)).proportion_ci(0.95)
        found = {"perturbations": len(values), "ks": test.statistic, "p_value": test.pvalue}
        share = {"rejected": below / len(values), "low": interval.low, "high": interval.high}
        rows.append({"summary": summary, "genes": genes} | found | share)
    return pd.DataFrame(rows)


def _gene_sets(data: PerturbationData, genes: Mapping[str, Sequence[str]] | Sequence[str] | None) -> dict:
    """name -> columns of its genes."""
    require(not isinstance(genes, str), f"genes is {genes!r}; give a list of genes, such as [{genes!r}].")
    if genes is None:
        return {"all": slice(None)}
    sets = genes if isinstance(genes, Mapping) else {name: [name] for name in genes}
    known = pd.Index(data.genes)
    for name, members in sets.items():
        require(len(members), f"The gene set {name!r} is empty; give it at least one gene.", DataError)
        if unknown := [g for g in members if g not in known]:
            raise DataError(f"{unknown[0]!r} is no gene of the data{did_you_mean(unknown[0], data.genes) or '.'}")
    return {name: known.get_indexer(list(members)) for name, members in sets.items()}


def _members(data: PerturbationData, names: Sequence[str]) -> dict[str, np.ndarray]:
    """condition -> rows of its cells, the control first."""
    labels = np.asarray(data.labels)
    if data.control is None or data.control not in labels:
        raise DataError("The data have no control cells; an effect needs some to compare with.")
    known = [c for c in data.conditions().index if c != data.control]
    if unknown := [name for name in names if name not in known]:
        hint = did_you_mean(unknown[0], known) or "; choose conditions of data.conditions() other than the control."
        raise DataError(f"No treated cell is labelled {unknown[0]!r}{hint}")
    members = {name: np.flatnonzero(labels == name) for name in [data.control, *names]}
    if lone := [name for name, rows in members.items() if len(rows) < 2]:
        raise DataError(f"{lone[0]!r} has 1 cell, but a check needs at least 2; leave it out.")
    return members


def _observe(values: Iterator[Tensor], summarise: Summary, resamples: int) -> np.ndarray:
    """(1 + resamples, rows): the observed summaries, then those of cells drawn with replacement."""
    y0, parts = next(values), []
    for y in values:
        found = [summarise(y[None], y0[None])]
        for part in portions(resamples, y.numel() + y0.numel(), MOST):
            at, at0 = (torch.randint(len(v), (part.stop - part.start, len(v)), device=v.device) for v in (y, y0))
            found.append(summarise(y[at], y0[at0]))
        parts.append(torch.cat(found))
    return torch.cat(parts, -1).cpu().numpy()


def _replicate(model: Model, conditions, read, summarise: Summary, replicates: int) -> np.ndarray:
    """(replicates, rows): the summaries of cells drawn from the model."""
    active = torch.stack([c.dose.any(0) for c in conditions]).any(0).nonzero().squeeze(1)
    conditions = [c.do(dose=c.dose[:, active]) for c in conditions]
    cells, parts = sum(sorted(map(len, conditions))[-2:]), []
    for part in portions(replicates, cells * len(model.summary.genes), MOST):
        shared = Trace(part.stop - part.start, active={Plate.DOSE: active})
        model.infer_shared(shared)
        values = (read(draw(model, c, shared)[1].x) for c in conditions)
        y0 = next(values)
        parts.append(torch.cat([summarise(y, y0) for y in values], -1))
    return torch.cat(parts).cpu().numpy()


def _compare(observed: np.ndarray, resampled: np.ndarray, replicated: np.ndarray, labels: pd.DataFrame) -> pd.DataFrame:
    """The columns of a check from (rows,), (resamples, rows) and (replicates, rows)."""
    if (bad := ~(np.isfinite(observed) & np.isfinite(replicated).all(0))).any():
        name, summary, genes = labels.loc[bad, ["perturbation", "summary", "genes"]].iloc[0]
        raise ValueError(f"Summary {summary!r} of {genes!r} is not finite in {name!r}; define it for every sample.")
    low, high = np.quantile(replicated, [0.025, 0.975], axis=0)
    above = ((replicated > observed).sum(0) + ((replicated == observed).sum(0) + 1) / 2) / (len(replicated) + 1)
    columns = {"observed": observed, "standard_error": resampled.std(0, ddof=1)}
    columns |= {"replicated_mean": replicated.mean(0), "replicated_sd": replicated.std(0, ddof=1)}
    columns |= {"replicated_low": low, "replicated_high": high}
    columns |= {"p_above": above, "p_below": 1 - above, "p_two_sided": 2 * np.minimum(above, 1 - above)}
    return pd.DataFrame(columns)
