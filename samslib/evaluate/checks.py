"""Posterior predictive checks: would cells drawn from the fitted model show what the observed cells show?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest, kstest
from torch import Tensor

from samslib.alignment import align
from samslib.cells import Plate
from samslib.data.container import PerturbationData
from samslib.data.messages import did_you_mean
from samslib.evaluate.effects import training_cells
from samslib.evaluate.streams import ELEMENTS, evaluating
from samslib.evaluate.tables import READOUTS, arms
from samslib.model import Model
from samslib.trace import Trace
from samslib.validation import DataError, choose, whole

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
    covariates and flags as observed. So T is computed on as many cells, at the same depth, as it is in the data.

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
    data = align(data, model)
    read = choose("readout", readout or ("perturbseq" if data.counts else "mean"), READOUTS)
    chosen = {s if isinstance(s, str) else s.__name__: _summary(s) for s in summaries}
    sets = _gene_sets(data, genes)
    members = _members(data, perturbations)
    training_cells(model, *arms(data, [name for name in members if name != data.control]))

    def summarise(treated: Tensor, control: Tensor) -> Tensor:
        """(R, summaries x sets) of values (R, n, G) and (R, n0, G)."""
        pairs = [(treated[..., at], control[..., at]) for at in sets.values()]
        return torch.stack([f(*pair) for f in chosen.values() for pair in pairs], -1).double()

    with evaluating(model, seed) as like:
        observed = _observe(data, members, read, summarise, resamples, like)
        replicated = _replicate(model, data, members, read, summarise, replicates, like)
    kinds = [(name, s, g) for name in members for s in chosen for g in sets if name != data.control]
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


def _summary(summary: str | Summary) -> Summary:
    return choose("summary", summary, SUMMARIES) if isinstance(summary, str) else summary


def _gene_sets(
    data: PerturbationData, genes: Mapping[str, Sequence[str]] | Sequence[str] | None
) -> dict[str, slice | list[int]]:
    """name -> columns of its genes."""
    if isinstance(genes, str):
        raise ValueError(f"genes is {genes!r}; give a list of genes, such as [{genes!r}].")
    if genes is None:
        return {"all": slice(None)}
    sets = genes if isinstance(genes, Mapping) else {name: [name] for name in genes}
    at = {name: i for i, name in enumerate(data.genes)}
    for name, members in sets.items():
        if not len(members):
            raise DataError(f"The gene set {name!r} is empty; give it at least one gene.")
        if unknown := [g for g in members if g not in at]:
            raise DataError(f"{unknown[0]!r} is no gene of the data{did_you_mean(unknown[0], data.genes) or '.'}")
    return {name: [at[g] for g in members] for name, members in sets.items()}


def _members(data: PerturbationData, perturbations: Sequence[str] | None) -> dict[str, np.ndarray]:
    """condition -> rows of its cells, the control first."""
    labels = np.asarray(data.labels)
    if data.control is None or not (labels == data.control).any():
        raise DataError("The data have no control cells; an effect needs some to compare with.")
    known = [c for c in data.conditions().index if c != data.control]
    names = known if perturbations is None else arms(data, perturbations)[0]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or "; choose conditions of data.conditions() other than the control."
            raise DataError(f"No treated cell is labelled {name!r}{hint}")
    members = {name: np.flatnonzero(labels == name) for name in [data.control, *names]}
    if lone := [name for name, rows in members.items() if len(rows) < 2]:
        raise DataError(f"{lone[0]!r} has 1 cell, but a check needs at least 2; leave it out.")
    return members


def _blocks(members: Mapping[str, np.ndarray], draws: int, genes: int) -> Iterator[int]:
    """Numbers of replicates that add up to `draws`, so small that the largest condition's cells fit in memory."""
    largest = sum(sorted(len(rows) for rows in members.values())[-2:])
    size = max(1, min(draws, 64, ELEMENTS // (largest * genes)))
    return (min(size, draws - start) for start in range(0, draws, size))


def _observe(data, members, read, summarise, resamples: int, like: Tensor) -> np.ndarray:
    """(1 + resamples, rows): the observed summaries, then those of cells drawn with replacement."""
    (_, control_rows), *treated_rows = members.items()
    y0 = read(data.batch(control_rows, like.dtype).x.to(like.device))
    parts = []
    for _, rows in treated_rows:
        y = read(data.batch(rows, like.dtype).x.to(like.device))
        values = [summarise(y[None], y0[None])]
        for size in _blocks({"control": control_rows, "treated": rows}, resamples, len(data.genes)):
            draw, draw0 = (torch.randint(len(v), (size, len(v)), device=like.device) for v in (y, y0))
            values.append(summarise(y[draw], y0[draw0]))
        parts.append(torch.cat(values))
    return torch.cat(parts, -1).cpu().numpy()


def _replicate(model: Model, data, members, read, summarise, replicates: int, like: Tensor) -> np.ndarray:
    """(replicates, rows): the summaries of cells drawn from the model."""
    conditions = {name: data.batch(rows, like.dtype).condition.to(like.device) for name, rows in members.items()}
    columns = {name: c.dose.any(0).nonzero().squeeze(1) for name, c in conditions.items()}
    drawn = torch.cat(list(columns.values())).unique()
    places = {name: torch.searchsorted(drawn, at) for name, at in columns.items()}
    conditions = {name: c.do(dose=c.dose[:, columns[name]].clone()) for name, c in conditions.items()}
    parts = []
    for size in _blocks(members, replicates, len(data.genes)):
        shared = Trace(size, active={Plate.DOSE: drawn})
        model.infer_shared(shared)

        def draw(name: str, shared: Trace = shared, size: int = size) -> Tensor:
            given = {
                n: site.value[:, places[name]] if site.plate is Plate.DOSE else site.value
                for n, site in shared.sites.items()
            }
            t = Trace(size, given=given, active={Plate.DOSE: columns[name]})
            return read(model.generate(t, conditions[name]).sample())

        control, *treated = members
        y0 = draw(control)
        parts.append(torch.cat([summarise(draw(name), y0) for name in treated], -1))
    return torch.cat(parts).cpu().numpy()


def _compare(observed: np.ndarray, resampled: np.ndarray, replicated: np.ndarray, labels: pd.DataFrame) -> pd.DataFrame:
    """The columns of a check from (rows,), (resamples, rows) and (replicates, rows)."""
    if (bad := ~(np.isfinite(observed) & np.isfinite(replicated).all(0))).any():
        name, summary, genes = labels.loc[bad, ["perturbation", "summary", "genes"]].iloc[0]
        raise ValueError(f"Summary {summary!r} of {genes!r} is not finite in {name!r}; define it for every sample.")
    low, high = np.quantile(replicated, [0.025, 0.975], axis=0)
    above = ((replicated > observed).sum(0) + ((replicated == observed).sum(0) + 1) / 2) / (len(replicated) + 1)
    return pd.DataFrame(
        {
            "observed": observed,
            "standard_error": resampled.std(0, ddof=1),
            "replicated_mean": replicated.mean(0),
            "replicated_sd": replicated.std(0, ddof=1),
            "replicated_low": low,
            "replicated_high": high,
            "p_above": above,
            "p_below": 1 - above,
            "p_two_sided": 2 * np.minimum(above, 1 - above),
        }
    )
