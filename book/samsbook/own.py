"""What chapter 9 and its report say of a screen: what was read, which perturbations act, what a model is worth."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, hypergeom

import samslib
from samsbook.results import provenance
from samslib import DataError, PerturbationData
from samslib.data.statistics import row_blocks
from samslib.evaluate.observed import strata
from samslib.evaluate.recovery import mean_correlation

FEW = 20  # cells of a condition: with fewer its effects are rough
BATCHES = re.compile(r"batch|lane|gem|replicate|donor|sample|library|run\b|day", re.IGNORECASE)  # names of columns
UNSURE = (0.1, 0.9)  # mask probabilities between these are undecided
CLOSE = 0.02  # a model whose correlation is no further below the best is no reason to train anew
CONTROLS = "controls"  # how they are called in maps
SMALLEST_SET = 3  # measured genes of a gene set that is tested
LIGHTS = {"green": "#2e7d32", "amber": "#9a5b00", "red": "#b3261e"}
MEANING = {
    "green": "read on",
    "amber": "read the ranked list and the intervals; what stands beside an amber light with care",
    "red": "read the ranked list, which needs no model, and train anew before the rest",
}


def simulated(seed: int) -> anndata.AnnData:
    """A screen of 20 guides of 10 genes, one of which does nothing, with four labels of controls.

    Parameters
    ----------
    seed
        Seed of all draws.
    """
    sizes = {"targets": 9, "guides": 2, "cells": 80, "controls": 560, "genes": 80, "library": (400.0, 0.4)}
    made = samslib.simulate.guide_screen(**sizes, pathways=3, latent=8, strength=(0.6, 1.0), seed=seed)
    made.obs = made.obs.astype(str)
    untreated = made.obs_names[made.obs["perturbation"] == "control"]
    made.obs.loc[untreated, "perturbation"] = np.resize([f"NT_{i}" for i in range(1, 5)], len(untreated))
    made.obs.loc[untreated[:160], "perturbation"] = ["P00_a", "P00_b"] * 80  # guides that do nothing
    made.obs.loc[untreated[:160], "gene"] = "P00"
    return made


# --- what was read -----------------------------------------------------------------------------------------


def read(path: str) -> anndata.AnnData:
    """The cells of an .h5ad file, whose counts stay in it where they are sparse by rows.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    DataError
        For a file that is none, or that is not there.
    """
    if not Path(path).is_file():
        raise DataError(f"There is no file {path}; give the .h5ad file that holds the cells.")
    try:
        return anndata.read_h5ad(path, backed="r")
    except Exception as error:  # of whatever library met what it did not expect
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise DataError(f"{Path(path).name} cannot be read as .h5ad ({said}); write it by adata.write_h5ad.") from None


def controls(adata: anndata.AnnData, column: str, asked: str) -> str | list[str]:
    """Labels of control cells.

    Parameters
    ----------
    adata
        The cells.
    column
        Column of obs with the labels of cells.
    asked
        A label, or several with a semicolon between. One that no cell has may be a pattern, with * for any text and ?
        for any character.

    Returns
    -------
    str or list
        The one label, or all. As asked where nothing fits, which `from_anndata` then says.
    """
    known = sorted({str(label).strip() for label in adata.obs[column].unique()}) if column in adata.obs else []
    found: list[str] = []
    for part in filter(None, (part.strip() for part in asked.split(";"))):
        found += [part] if part in known else fnmatch.filter(known, part) or [part]
    found = list(dict.fromkeys(found))
    return found if len(found) > 1 else (found or [asked])[0]


def targets(adata: anndata.AnnData, asked: str) -> str | Callable[[str], str] | None:
    """How guides have their targets, for `from_anndata(target=)`.

    Parameters
    ----------
    adata
        The cells.
    asked
        A column of obs, or signs such as "_", before whose first occurrence in the guide's name the target stands;
        empty without guides.
    """
    if asked and asked not in adata.obs and not any(sign.isalnum() for sign in asked):
        return lambda guide: guide.split(asked)[0]
    return asked or None


@contextmanager
def remarks() -> Iterator[list[str]]:
    """What the library logs and warns of within, as a list of sentences."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("samslib")
    kept, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield said
        said += [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    finally:
        logger.removeHandler(handler)
        logger.propagate = kept


def intake(data: PerturbationData, said: Sequence[str] = (), obs: pd.DataFrame | None = None) -> pd.DataFrame:
    """What was read, and what is odd about it.

    Parameters
    ----------
    data
        All cells and genes; they may be on disk.
    said
        What was logged while reading.
    obs
        The cells' table, in which columns that look like batches are sought. None: no such columns.

    Returns
    -------
    DataFrame
        A row a fact: "found", and "remedy", which is empty where nothing is odd.
    """
    rows: list[tuple[str, Any, str]] = [("cells x genes", f"{len(data):,} x {len(data.genes):,}", "")]
    rows += [*_of_controls(data), *_of_conditions(data), *_of_guides(data), *_of_depth(data), *_of_quality(data)]
    rare = int((~data.genes_seen(3)).sum())
    rows += [("genes seen in fewer than 3 cells", rare, "left out of the model" if rare else "")]
    if obs is not None and not data.covariates:
        likely = [str(c) for c in obs if BATCHES.search(str(c)) and 1 < obs[c].nunique() <= 50]
        if likely:
            rows += [("columns that look like batches", ", ".join(likely), f"compare within one: --within {likely[0]}")]
    rows += [("said while reading", sentence, "") for sentence in dict.fromkeys(said)]
    return pd.DataFrame(rows, columns=["what", "found", "remedy"]).set_index("what").rename_axis(None)


def _of_controls(data: PerturbationData) -> Iterator[tuple[str, Any, str]]:
    untreated = data.n_perturbations == 0
    labels = pd.Series(data.raw_labels[untreated]).value_counts()
    few = "too few for a null of controls: add control cells" if untreated.sum() < 100 else ""
    yield "control cells", f"{untreated.sum():,} of {len(labels)} labels" if len(labels) > 1 else untreated.sum(), few
    largest = data.conditions()["cells"][data.conditions()["perturbations"] > 0].max()
    if untreated.sum() < 2 * largest:
        yield "largest condition", f"{largest} cells", "more than half as many as controls: its p-value is less exact"


def _of_conditions(data: PerturbationData) -> Iterator[tuple[str, Any, str]]:
    table = data.conditions()
    cells = table["cells"][table["perturbations"] > 0]
    yield "conditions", f"{len(cells)}, of {cells.min()} to {cells.max()} cells, median {cells.median():g}", ""
    several = int((table["perturbations"] > 1).sum())
    yield "conditions of several perturbations", several, ""
    if len(few := cells[cells < FEW].sort_values()):
        names = ", ".join(f"{name} ({n})" for name, n in few.head(5).items())
        yield (
            f"conditions of fewer than {FEW} cells",
            f"{len(few)}: {names}{' ...' if len(few) > 5 else ''}",
            "their effects are rough: name the guides' targets (--target), or leave them out",
        )


def _of_guides(data: PerturbationData) -> Iterator[tuple[str, Any, str]]:
    if not data.targets:
        return
    guides = pd.Series(data.targets).value_counts()
    lone = list(guides.index[guides == 1])
    remedy = f"no agreement of guides can be told of {', '.join(lone[:5])}{' ...' if len(lone) > 5 else ''}"
    yield "guides a target", f"{guides.min()} to {guides.max()}, of {len(guides)} targets", remedy if lone else ""
    cells = pd.Series(data.n_treated).groupby(np.array(data.targets)).sum()
    yield "cells a target", f"{cells.min()} to {cells.max()}, median {cells.median():g}", ""


def _of_depth(data: PerturbationData) -> Iterator[tuple[str, Any, str]]:
    depth = pd.Series(np.ravel(data.library))
    if not data.counts:
        return
    yield "counts of a cell: 5%, median, 95%", ", ".join(f"{q:,.0f}" for q in depth.quantile([0.05, 0.5, 0.95])), ""
    shallow = int((depth < depth.median() / 5).sum())
    yield "cells of less than a fifth of the median", shallow, "drop them if they are debris" if shallow else ""
    middle = depth.groupby(np.where(data.n_perturbations > 0, data.labels, "")).median()
    ratio = middle / middle[""] if "" in middle else middle / depth.median()
    if len(odd := ratio[(ratio < 0.67) | (ratio > 1.5)]):
        names = ", ".join(f"{name} ({r:.2g} x)" for name, r in odd.head(5).items())
        yield (
            "conditions whose depth differs from controls",
            names,
            "effects are of shares; look at quality all the same",
        )


def _of_quality(data: PerturbationData) -> Iterator[tuple[str, Any, str]]:
    mt = np.array([gene.upper().startswith("MT-") for gene in data.genes])
    if not (mt.any() and data.counts):
        yield "mitochondrial share", "cannot be told: no gene is named MT-...", ""
        return
    share = np.concatenate([np.ravel(block[:, mt].sum(1)) for _, block in row_blocks(data.x)]) / np.ravel(data.library)
    middle = np.median(share)
    high = int((share > middle + 5 * np.median(np.abs(share - middle))).sum())
    text = f"median {middle:.1%}; {high} cells over 5 median absolute deviations"
    yield "mitochondrial share", text, "drop them: samslib.quality.label" if high else ""


def top(table: pd.DataFrame, rows: int = 15, digits: int = 2) -> pd.DataFrame:
    """The first rows of a table, to be shown: rounded, named by the first column, without columns that say nothing."""
    known = table.head(rows).round(digits)
    known = known.dropna(axis=1, how="all") if len(known) else known
    return known.set_index(known.columns[0])


def by_level(data: PerturbationData, within: str) -> pd.DataFrame:
    """Cells of each level of a covariate.

    Parameters
    ----------
    data
        Cells with the covariate.
    within
        Its name.

    Returns
    -------
    DataFrame
        A row a level: control and perturbed cells, conditions, and the median of counts.
    """
    level, treated = strata(data, within), data.n_perturbations > 0
    cells = pd.DataFrame({"level": level, "control cells": ~treated, "perturbed cells": treated})
    table = cells.groupby("level").sum()
    table["conditions"] = pd.Series(data.labels[treated]).groupby(level[treated]).nunique()
    return table.assign(**{"counts of a cell, median": pd.Series(np.ravel(data.library)).groupby(level).median()})


def choose_genes(data: PerturbationData, train: PerturbationData, most: int) -> tuple[PerturbationData, str]:
    """The cells in memory with the genes that vary most, and the targets.

    Parameters
    ----------
    data
        All cells and genes.
    train
        The training cells among them, which alone decide.
    most
        Number of genes.

    Returns
    -------
    tuple
        The data, and what was done, in a sentence. Cells without counts on these genes are left out.
    """
    spread = train.summary().log_std.numpy() * train.genes_seen(3)
    chosen = spread >= np.sort(spread)[-min(most, len(spread))]
    wanted = {*data.targets, *data.perturbations}
    chosen = (chosen | np.array([gene in wanted for gene in data.genes])) & (spread > 0)
    total = np.concatenate([np.ravel(abs(block[:, chosen]).sum(1)) for _, block in row_blocks(data.x)])
    kept = data[total > 0] if data.counts and (total == 0).any() else data
    empty = f"; {len(data) - len(kept)} cells have no counts on them and are left out" if len(kept) < len(data) else ""
    return kept.select_genes(chosen).to_memory(), f"{chosen.sum()} of {len(data.genes)} genes{empty}"


# --- data alone --------------------------------------------------------------------------------------------


def of_targets(data: PerturbationData) -> PerturbationData:
    """The cells with the targets of their guides as conditions; as they are without targets.

    Parameters
    ----------
    data
        Cells in memory.
    """
    if not data.targets:
        return data
    names = {label: data.target_of(label) for label in set(data.labels[data.n_perturbations > 0])}
    return replace(data, labels=np.array([names.get(label, label) for label in data.labels], dtype=object))


def ranked(data: PerturbationData, within: Sequence[str], resamples: int, *, seed: int) -> pd.DataFrame:
    """`rank_perturbations` of targets, or of perturbations without targets, with what else the cells say of each.

    Parameters
    ----------
    data
        Cells in memory.
    within
        Covariates within whose levels cells are compared.
    resamples
        Number of draws of controls against controls.
    seed
        Seed of all draws.

    Returns
    -------
    DataFrame
        Its table, with few cells or few controls in the column "note", and with "ceiling", the correlation that the
        true effects would reach with those of these cells; "own gene", the effect (log2) on the gene of that name, if
        it is measured; and of guides "guides with an effect" (at a false discovery rate of 10%) and "alike", the mean
        cosine of their effects.
    """
    table = samslib.rank_perturbations(data, within=within, targets=bool(data.targets), resamples=resamples, seed=seed)
    cells = of_targets(data)
    ceiling = samslib.noise_ceiling(cells, within=within, seed=seed).query("score == 'pearson'")
    table["ceiling"] = table["perturbation"].map(ceiling.set_index("perturbation")["ceiling"])
    effects = samslib.data_effects(cells, within=within).to_df()
    own = {name: effects.loc[name, name] for name in effects.index.intersection(effects.columns)}
    table["own gene"] = table["perturbation"].map(own)
    table = table if not data.targets else _with_guides(table, data, within, resamples, seed=seed)
    note = table.pop("few_cells").map({True: "few cells", False: ""})
    note = note.where(~table.pop("few_controls"), "few controls")
    return table.assign(cells=table["cells"].astype(int), note=note)


def _with_guides(table: pd.DataFrame, data: PerturbationData, within, resamples: int, *, seed: int) -> pd.DataFrame:
    guides = samslib.rank_perturbations(data, within=within, resamples=resamples, seed=seed)
    effects = samslib.data_effects(data, within=within).to_df()
    unit = effects.div(np.sqrt(np.square(effects).sum(axis=1)).clip(lower=1e-12), axis=0)
    rows = {}
    for target, of in guides.groupby(guides["perturbation"].map(data.target_of)):
        cosines = np.triu(unit.loc[of["perturbation"]] @ unit.loc[of["perturbation"]].T, 1)
        n = len(of)
        text = f"{(of['fdr'] < 0.1).sum()} of {n}"
        rows[target] = (text, cosines.sum() / (n * (n - 1) / 2) if n > 1 else np.nan)
    found = pd.DataFrame.from_dict(rows, "index", columns=["guides with an effect", "alike"])
    return table.join(found, on="perturbation")


def control_null(data: PerturbationData, within: Sequence[str], resamples: int, *, seed: int) -> pd.DataFrame:
    """Each label of controls as if it were a perturbation, against the other controls.

    Parameters
    ----------
    data
        Cells in memory.
    within, resamples, seed
        As of `ranked`.

    Returns
    -------
    DataFrame
        A row a label of at least 10 cells, the largest first, with the columns of `rank_perturbations`; empty with a
        single label. Where controls are alike, p is uniform; where one acts, the others differ from it, but less.
    """
    cells = data[data.n_perturbations == 0]
    label = np.array([str(name).strip() for name in cells.raw_labels], dtype=object)
    names, sizes = np.unique(label, return_counts=True)
    rows = []
    for name in names[(sizes >= 10) & (sizes < len(cells) - 10)]:
        on = label == name
        one = replace(cells, labels=np.where(on, name, cells.control).astype(object), n_perturbations=on.astype(int))
        rows.append(samslib.rank_perturbations(one, within=within, resamples=resamples, seed=seed))
    columns = ["perturbation", "cells", "size", "p", "fdr"]
    table = pd.concat(rows)[columns].astype({"cells": int}) if rows else pd.DataFrame(columns=columns)
    table = table.assign(fdr=false_discovery_control(table["p"])) if rows else table
    return table.sort_values("size", ascending=False, ignore_index=True)


# --- the model ---------------------------------------------------------------------------------------------


def rivals(data: PerturbationData, split: Any, config: samslib.FitConfig, *, seed: int) -> dict[str, anndata.AnnData]:
    """Effects of CPA-VAE and of a conditional VAE, trained as long as the model.

    Parameters
    ----------
    data
        All cells.
    split
        A splitter.
    config
        How to train.
    seed
        Seed of weights and draws.
    """
    from samslib.training import prepare

    tables = {}
    for name, kind in {"CPA-VAE": samslib.CPAVAE, "conditional VAE": samslib.ConditionalVAE}.items():
        cells = prepare(kind, data)
        train, val, _ = cells.split(split)
        model = kind(cells.summary(train), seed=seed)
        samslib.fit(model, train, val, config)
        tables[name] = samslib.average_effects(model, cells, seed=seed)
    return tables


def tidy(intervals: anndata.AnnData) -> pd.DataFrame:
    """A row an effect, those whose interval leaves out zero first, and then the largest.

    Parameters
    ----------
    intervals
        Of `calibrated_effects`.
    """
    low, high = intervals.layers["low"], intervals.layers["high"]
    keys = pd.MultiIndex.from_product([intervals.obs_names, intervals.var_names], names=["perturbation", "gene"])
    columns = {"effect": intervals.X, "low": low, "high": high, "sure": (low > 0) | (high < 0)}
    table = pd.DataFrame({name: np.ravel(of) for name, of in columns.items()}, keys).reset_index()
    return table.sort_values(["sure", "effect"], key=abs, ascending=False, ignore_index=True)


def target_scores(
    tables: Mapping[str, anndata.AnnData], train: PerturbationData, test: PerturbationData, within: Sequence[str]
) -> pd.DataFrame:
    """Correlation of effects of targets with those of test cells, over all targets and genes.

    Parameters
    ----------
    tables
        Effects by name of the model, a row a condition of guides.
    train, test
        Cells of guides with targets. Effects of the training cells are a row of the table, too.
    within
        Covariates within whose levels effects are taken.

    Returns
    -------
    DataFrame
        A row a model, the best first: "correlation".
    """
    alone, seen = (samslib.data_effects(of_targets(part), within=within).to_df() for part in (train, test))
    said = {name: samslib.by_target(table, train).to_df() for name, table in tables.items()}
    names = seen.index.intersection(alone.index)
    rows = {name: of.loc[names].stack().corr(seen.loc[names].stack()) for name, of in said.items()}
    rows["data: training cells"] = alone.loc[names].stack().corr(seen.loc[names].stack())
    table = pd.Series(rows, name="correlation").sort_values(ascending=False).to_frame()
    return table.rename_axis("targets, by")


def model_sd(effects: anndata.AnnData, data: PerturbationData) -> pd.Series:
    """What posterior and members leave open of each effect: a standard deviation, root mean square over genes.

    Of guides it is averaged to their targets: they share what is uncertain.

    Parameters
    ----------
    effects
        Of `posterior_effects` or `ensemble_effects`, a row a condition.
    data
        The cells.
    """
    layers = [effects.layers[name] for name in ("posterior_variance", "member_variance") if name in effects.layers]
    sd = pd.Series(np.sqrt(np.sum(layers, axis=0).mean(1).clip(min=0)), effects.obs_names)
    return sd.groupby(data.target_of).mean() if data.targets else sd


def beside_data(
    effects: anndata.AnnData, seen: anndata.AnnData, hits: Sequence[str], sd: pd.Series | None = None
) -> pd.DataFrame:
    """What a model and the cells say of each perturbation.

    Parameters
    ----------
    effects
        Of the model, such as `ensemble_effects`.
    seen
        `data_effects` of the same rows.
    hits
        Perturbations with an effect.
    sd
        Of `model_sd`. None: not told.

    Returns
    -------
    DataFrame
        A row a perturbation, the largest first: "cells", "size" in the cells (without noise) and "model size", root
        mean squares over genes in log2; "model sd"; "agreement", their correlation over genes; and "note", where the
        cells show an effect and the model another (a correlation below 0.3, or below half or above twice its size).
    """
    both = [name for name in seen.obs_names if name in set(effects.obs_names)]
    seen, effects = seen[both], effects[both]
    table = pd.DataFrame({"cells": seen.obs["cells"].astype(int), "size": size(seen)})
    table["model size"] = np.sqrt(np.square(effects.X).mean(1))
    table["model sd"] = np.nan if sd is None else sd
    table["agreement"] = effects.to_df().corrwith(seen.to_df(), axis=1)
    ratio = table["model size"] / table["size"].clip(lower=1e-12)
    apart = (ratio < 0.5) | (ratio > 2) | (table["agreement"] < 0.3)
    table["note"] = np.where(apart & table.index.isin(list(hits)), "model and cells part", "")
    return table.sort_values("size", ascending=False).rename_axis("perturbation").reset_index()


def parts(data: PerturbationData, names: Sequence[str]) -> list[str]:
    """The perturbations (or targets) that conditions consist of, each once."""
    return sorted({part for name in names for part in data.naming.perturbations(name)})


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest if len(names) else "none"


def covered(
    effects: anndata.AnnData, parts: Sequence[PerturbationData], level: float, within: Sequence[str]
) -> tuple[float, int]:
    """Share of the effects of test cells that lie in their intervals, and the number of conditions.

    Parameters
    ----------
    effects
        What a model says.
    parts
        Training, validation and test cells.
    level
        Coverage that the intervals were calibrated to.
    within
        Covariates within whose levels effects are taken.
    """
    train, val, seen = (samslib.data_effects(part, within=within) for part in parts)
    size = {"cells": seen.obs["cells"], "controls": seen.uns["samslib"]["control_cells"]}
    made = samslib.calibrated_effects(effects, train, val, level, **size)
    names = seen.obs_names.intersection(made.obs_names)
    low, high = (made[names].to_df(layer).to_numpy() for layer in ("cells_low", "cells_high"))
    known = np.isfinite(low)
    inside = (seen[names].X >= low) & (seen[names].X <= high)
    return float(inside[known].mean()) if known.any() else np.nan, int(known.any(axis=1).sum())


def verdict(
    histories: Sequence[samslib.History],
    scores: pd.DataFrame,
    on: pd.DataFrame,
    direct: pd.DataFrame,
    hits: Sequence[str],
    coverage: tuple[float, int],
    level: float,
) -> pd.DataFrame:
    """Whether a model is worth reading, in words and as a traffic light.

    Parameters
    ----------
    histories
        Of the training, one a model.
    scores
        Rows of `score_table`, all pooled: "model", "value", "low", "high"; the model is called SAMS-VAE.
    on
        Mask probabilities, perturbations (or targets) x axes.
    direct
        Of `direct_effects`.
    hits
        Those with an effect; of combinations, their `parts`.
    coverage
        Of `covered`, or (nan, 0) without intervals.
    level
        What intervals should cover.

    Returns
    -------
    DataFrame
        A row a question: "light" and "answer".
    """
    rows = {"Trained to its end?": _trained(histories), "Collapsed?": _collapsed(on, direct, hits)}
    rows["Better than the cells alone?"] = _better(scores)
    rows["Do intervals hold?"] = _holding(*coverage, level)
    return pd.DataFrame.from_dict(rows, "index", columns=["light", "answer"])


def worst(table: pd.DataFrame) -> str:
    """The worst light of a `verdict`."""
    return max(table["light"], key=list(LIGHTS).index)


def in_short(table: pd.DataFrame) -> str:
    """The worst light of a `verdict`, and what to do."""
    return f"The model is {worst(table)}: {MEANING[worst(table)]}."


def lit(table: pd.DataFrame) -> Any:
    """A `verdict` to be shown, with coloured lights."""
    return table.style.map(lambda light: f"color: white; background-color: {LIGHTS[light]}", subset=["light"])


def _trained(histories: Sequence[samslib.History]) -> tuple[str, str]:
    said = [history.verdict() for history in histories]
    bad = [one for one in said if not one.startswith("Trained")]
    light = "red" if any(one.startswith("Worse") for one in bad) else "amber" if bad else "green"
    return light, (bad or said)[0]


def undecided(on: pd.DataFrame) -> float:
    """Of the mask entries that are not off, the share whose probability is neither near 0 nor near 1."""
    p = on.to_numpy()
    low, high = UNSURE
    return float(((p > low) & (p < high)).sum() / max((p > low).sum(), 1))


def _collapsed(on: pd.DataFrame, direct: pd.DataFrame, hits: Sequence[str]) -> tuple[str, str]:
    of_hits = pd.Index(hits) if len(hits) else on.index
    axis, gene = of_hits.isin(on.index[(on > 0.5).any(axis=1)]), of_hits.isin(direct["target"])
    used, share = int((on > 0.5).any().sum()), undecided(on)
    who = f"of the perturbations with an effect {axis.mean():.0%} are on one and {gene.mean():.0%} hit genes directly"
    text = f"{used} of {on.shape[1]} axes in use; {who}; {share:.0%} of the masks that are not off are undecided"
    if len(hits) and (axis | gene).mean() < 0.2:
        return "red", f"{text}: masks collapsed, train anew or longer"
    return ("amber", f"{text}: do not read axes") if share > 0.5 or not used else ("green", text)


def _better(scores: pd.DataFrame) -> tuple[str, str]:
    table = scores.set_index("model")
    own, rest = table.loc["SAMS-VAE"], table.drop(index="SAMS-VAE")
    best = rest["value"].idxmax()
    text = (
        f"correlation {own['value']:.3f} with effects of test cells; best without it: {best} {rest['value'].max():.3f}"
    )
    if own["value"] >= rest["value"].max():
        return "green", text
    if max(own["high"], own["value"] + CLOSE) >= rest["value"].max():
        return "amber", f"{text}, within the interval or {CLOSE}"
    return "red", text


def _holding(share: float, count: int, level: float) -> tuple[str, str]:
    if not count:
        return "amber", "unvalidated: too few conditions to calibrate intervals"
    text = (
        f"validated on {count} conditions: they hold {share:.1%} of the effects of test cells, and should {level:.0%}"
    )
    return "green" if abs(share - level) < 0.05 else "amber", text


# --- axes and gene sets ------------------------------------------------------------------------------------


def of_rows(frame: pd.DataFrame, data: PerturbationData) -> pd.DataFrame:
    """A table of guides as one of targets, by means; as it is without targets."""
    return frame.groupby(dict(zip(data.perturbations, data.targets, strict=True))).mean() if data.targets else frame


def axis_genes(shift: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """How each gene goes with each axis: the mean of effects, weighted by the shifts along the axis.

    Parameters
    ----------
    shift
        Perturbations x axes.
    effects
        Perturbations x genes.

    Returns
    -------
    DataFrame
        Axes x genes, in log2 for a shift of one.
    """
    both = effects.index.intersection(shift.index)
    weight = shift.loc[both]
    return (weight.T @ effects.loc[both]).div(np.square(weight).sum().clip(lower=1e-12), axis=0)


def axes(on: pd.DataFrame, moves: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """The axes in use, those of most perturbations first.

    Parameters
    ----------
    on
        Mask probabilities, perturbations x axes.
    moves
        Of `axis_genes`.
    most
        Number of names in a list.

    Returns
    -------
    DataFrame
        A row an axis: the perturbations that are surely on it, the number of undecided ones, genes up and down with it.
    """
    low, high = UNSURE
    rows = []
    for axis in (on > high).sum().sort_values(ascending=False, kind="stable").index:
        sure = on.index[on[axis] > high]
        if len(sure):
            sorted_genes = moves.loc[axis].sort_values()
            row = {
                "axis": axis,
                "perturbations": ", ".join(on.loc[sure, axis].nlargest(most).index),
                "number": len(sure),
            }
            row |= {"undecided": int(((on[axis] > low) & (on[axis] <= high)).sum())}
            row |= {"up": ", ".join(sorted_genes.index[::-1][:5]), "down": ", ".join(sorted_genes.index[:5])}
            rows.append(row)
    return pd.DataFrame(rows, columns=["axis", "number", "undecided", "perturbations", "up", "down"])


def seeds_agree(shifts: Sequence[np.ndarray]) -> float:
    """Mean correlation of matched axes between the first model and each other; not a number for a single one."""
    return float(np.mean([mean_correlation(shifts[0], other) for other in shifts[1:]])) if len(shifts) > 1 else np.nan


def read_gmt(path: str) -> dict[str, set[str]]:
    """Gene sets of a GMT file: a line a set, with tabs between its name, a description and its genes.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    DataError
        For a missing file and one of another form.
    """
    if not Path(path).is_file():
        raise DataError(f"There is no file {Path(path).name} of gene sets; give the path of a GMT file.")
    lines = [line.split("\t") for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines() if line]
    sets = {line[0].strip(): {gene.strip() for gene in line[2:] if gene.strip()} for line in lines if len(line) > 2}
    if not sets:
        raise DataError(f"{Path(path).name} is no GMT file; a line must hold a name, a description and genes, by tabs.")
    return sets


def enrichment(moves: pd.DataFrame, sets: Mapping[str, set[str]], top: int | None = None) -> pd.DataFrame:
    """Gene sets among the genes that go with each axis most.

    Of N measured genes, n go with the axis most, K are of the set and k both: p is the hypergeometric P(>= k), and
    "fdr" its Benjamini-Hochberg adjustment over all axes and sets. The background is what was measured. Genes of a
    set move together, which the test does not know, so that p is too small: a ranking, not proof.

    Parameters
    ----------
    moves
        Axes in use x genes, of `axis_genes`.
    sets
        Gene sets by name, of which those of 3 measured genes to half of all are tested.
    top
        n. None: a tenth of the genes, 10 at least and 100 at most.

    Returns
    -------
    DataFrame
        A row an axis and set with k above 0, best first: "axis", "set", "both" k, "measured" K, "expected", "p", "fdr",
        and the "genes" in both.
    """
    genes, total = set(moves.columns), moves.shape[1]
    top = min(top or int(np.clip(total // 10, 10, 100)), total)
    measured = {name: of & genes for name, of in sets.items()}
    tested = {name: of for name, of in measured.items() if SMALLEST_SET <= len(of) <= total / 2}
    rows = []
    for axis, row in moves.iterrows():
        most = set(row.abs().nlargest(top).index)
        for name, of in tested.items():
            both = sorted(most & of)
            p = hypergeom.sf(len(both) - 1, total, len(of), top)
            rows.append((axis, name, len(both), len(of), len(of) * top / total, p, ", ".join(both[:8])))
    table = pd.DataFrame(rows, columns=["axis", "set", "both", "measured", "expected", "p", "genes"])
    table.insert(6, "fdr", false_discovery_control(table["p"]) if len(table) else [])
    return table[table["both"] > 0].sort_values("p", kind="stable", ignore_index=True)


# --- states of cells ---------------------------------------------------------------------------------------


def states(model: Any, cells: PerturbationData, shift: pd.DataFrame, *, seed: int) -> dict[str, np.ndarray]:
    """Basal and full state of cells: z_basal, and z_basal with the shifts of what they received.

    Parameters
    ----------
    model
        A trained SAMSVAE.
    cells
        Cells in memory.
    shift
        Perturbations x axes, the posterior mean of M * E.
    seed
        Seed of the draws.
    """
    basal = samslib.latents(model, cells, seed=seed)["z_basal"]
    return {"basal state": basal, "full state": basal + cells.dose @ shift.loc[list(cells.perturbations)].to_numpy()}


def shown_cells(data: PerturbationData, names: Sequence[str], most: int, *, seed: int) -> tuple[PerturbationData, Any]:
    """At most so many cells of control and of the named conditions, as many of each as can be, and their labels.

    Parameters
    ----------
    data
        Cells in memory, by targets where there are targets.
    names
        Conditions.
    most
        Largest number of cells.
    seed
        Seed of the choice.
    """
    label = np.where(data.n_perturbations > 0, data.labels, CONTROLS)
    rng, share = np.random.default_rng(seed), max(most // (len(names) + 1), 1)
    chosen = [rng.permutation(np.flatnonzero(label == name))[:share] for name in [CONTROLS, *names]]
    at = np.sort(np.concatenate(chosen))
    return data[at], label[at]


def most_seen(data: PerturbationData, names: Sequence[str], most: int) -> list[str]:
    """The first so many of the names that have cells enough for a probe: 5 folds of two cells."""
    cells = pd.Series(data.labels).value_counts()
    return [name for name in names if cells.get(name, 0) >= 10][:most]


def leakage(found: Mapping[str, np.ndarray], label: np.ndarray, folds: int = 5, *, seed: int) -> pd.DataFrame:
    """How well a linear probe tells from a state what a cell received.

    Parameters
    ----------
    found
        (n, K) states by name.
    label
        (n,) what each cell received.
    folds
        Folds of the cross-validation.
    seed
        Seed of the folds and of the permutation.

    Returns
    -------
    DataFrame
        A row a state: "told", the balanced accuracy of logistic regression in cells that it was not fitted to;
        "permuted", the same with permuted labels; "chance".
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    moved = np.random.default_rng(seed).permutation(label)

    def told(z: np.ndarray, y: np.ndarray) -> float:
        return float(balanced_accuracy_score(y, cross_val_predict(probe, z, y, cv=cut)))

    rows = {name: (told(z, label), told(z, moved), 1 / len(set(label))) for name, z in found.items()}
    return pd.DataFrame.from_dict(rows, "index", columns=["told", "permuted", "chance"]).rename_axis("state")


def leak_in_words(probe: pd.DataFrame) -> str:
    """What a probe of the basal state says, in a sentence; see `leakage`."""
    basal, other = probe.loc["basal state", "told"], probe.loc["full state", "told"]
    chance = probe.loc["basal state", ["permuted", "chance"]].max()
    text = (
        f"from the basal state a probe tells {basal:.0%} right, from the full one {other:.0%}, by chance {chance:.0%}"
    )
    return f"No leak seen: {text}." if basal < chance + 0.05 else f"The basal state leaks: {text}."


def maps(found: Mapping[str, np.ndarray], label: np.ndarray, *, seed: int) -> Any:
    """A UMAP of each state through scanpy, cells coloured by what they received; controls in grey.

    Parameters
    ----------
    found
        (n, K) states by name.
    label
        (n,) what each cell received.
    seed
        Seed of the neighbours and the layout.
    """
    import scanpy as sc

    from samslib import plotting

    panels = np.atleast_1d(plotting.axes(len(found), height=4.2, titles=found))
    names = [CONTROLS, *sorted(set(label) - {CONTROLS})]
    colours = {name: plotting.PALETTE[(i - 1) % 7] if i else "0.75" for i, name in enumerate(names)}
    for ax, z in zip(panels, found.values(), strict=True):
        table = anndata.AnnData(np.asarray(z, dtype=np.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sc.pp.neighbors(table, min(15, len(z) - 1), use_rep="X", method="gauss", random_state=seed)
            sc.settings.verbosity = 0
            sc.tl.umap(table, maxiter=200, random_state=seed)
        cells = pd.DataFrame(table.obsm["X_umap"], columns=["UMAP 1", "UMAP 2"]).assign(cells=label)
        plotting.scatter(cells, "UMAP 1", "UMAP 2", "cells", ax=ax, hue_order=names, palette=colours, s=12)
        ax.set(xticks=[], yticks=[])
    return panels


# --- unseen pairs ------------------------------------------------------------------------------------------


def pairs_of(data: PerturbationData) -> list[str]:
    """The pairs that the data show, whose parts are shown alone too."""
    known = data.conditions()
    singles = set(known.index[known["perturbations"] == 1])
    return [p for p in known.index[known["perturbations"] == 2] if set(data.naming.perturbations(p)) <= singles]


def unseen_pairs(data: PerturbationData, strong: Sequence[str], most: int = 15) -> list[str]:
    """Pairs of the strongest perturbations that the data do not show.

    Parameters
    ----------
    data
        Cells with pairs.
    strong
        Perturbations, the strongest first.
    most
        How many of them are paired.
    """
    known, singles = data.conditions(), set(data.conditions().query("perturbations == 1").index)
    names = sorted([name for name in strong if name in singles][:most])
    return [p for a, b in combinations(names, 2) if (p := data.naming.joined([a, b])) not in known.index]


def held_out_pairs(data: PerturbationData, config: samslib.FitConfig, *, seed: int) -> pd.DataFrame:
    """What a model that was trained without some of the pairs says of these: all if they are fewer than 10, else half.

    What the pairs do is seen against a third of the controls, which are held out too: a sum of two effects against the
    same controls would share their noise with it and look too good.

    Parameters
    ----------
    data
        Cells with pairs.
    config
        How to train.
    seed
        Seed of the choice of pairs, the weights and the draws.

    Returns
    -------
    DataFrame
        A row a pair that was held out: "cells", "seen", the size of its effect (root mean square over genes, log2,
        without its noise), "model" and "sum" (of the two effects in training cells), and with each "..._correlation",
        its correlation with what was seen, and "..._ratio", the size seen over that said.
    """
    rng = np.random.default_rng(seed)
    pairs = np.array(pairs_of(data), dtype=object)
    held = set(rng.permutation(pairs)[: len(pairs) if len(pairs) < 10 else len(pairs) // 2])
    out = np.array([label in held for label in data.labels]) | (data.n_perturbations == 0) & (
        rng.random(len(data)) < 1 / 3
    )
    split = np.where(out, "test", np.where(rng.random(len(data)) < 0.15, "val", "train")).astype(object)
    train, val, test = data.split(split)
    model = samslib.SAMSVAE(data.summary(train), seed=seed)
    samslib.fit(model, train, val, config)
    names = sorted(held)
    seen = samslib.data_effects(test)[names]
    said = {"model": samslib.average_effects(model, data, names, seed=seed).to_df(), "sum": sums(train, names)}
    table = pd.DataFrame({"cells": seen.obs["cells"].astype(int), "seen": size(seen)})
    for name, effects in said.items():
        table[name] = np.sqrt(np.square(effects).mean(axis=1))
        table[f"{name}_correlation"] = effects.corrwith(seen.to_df(), axis=1)
        table[f"{name}_ratio"] = table["seen"] / table[name]
    return table.rename_axis("pair")


def sums(data: PerturbationData, pairs: Sequence[str]) -> pd.DataFrame:
    """Pairs x genes: the sum of the observed effects of the parts."""
    alone = samslib.data_effects(data).to_df()
    return pd.DataFrame({p: alone.loc[data.naming.perturbations(p)].sum() for p in pairs}).T


def size(effects: anndata.AnnData) -> pd.Series:
    """Root mean square over genes of each effect, less what its standard error adds."""
    square = np.square(effects.X) - np.square(np.nan_to_num(effects.layers["standard_error"]))
    return pd.Series(np.sqrt(square.mean(1).clip(min=0)), effects.obs_names)


def ratio_interval(ratios: pd.Series, level: float) -> tuple[float, float, float]:
    """Two order statistics of n ratios, and the probability that the ratio of a further pair lies between them.

    With the k-th smallest and largest it is (n + 1 - 2 k) / (n + 1), whatever the law of the ratios, if the further
    pair is like those. k is the largest for which it is at least `level`, or 1.
    """
    ordered, n = np.sort(ratios.dropna()), int(ratios.notna().sum())
    k = max(int((n + 1) * (1 - level) / 2 + 1e-9), 1)
    return float(ordered[k - 1]), float(ordered[n - k]), (n + 1 - 2 * k) / (n + 1)


def ranked_pairs(
    data: PerturbationData, effects: anndata.AnnData, held: pd.DataFrame, level: float, doubted: Sequence[str] = ()
) -> tuple[pd.DataFrame, str]:
    """Pairs that the data do not show, the largest first, by the model or by sums, whichever was nearer to more pairs.

    Parameters
    ----------
    data
        All cells.
    effects
        What the model says of the pairs.
    held
        Of `held_out_pairs`.
    level
        Asked coverage of the interval.
    doubted
        Perturbations of which model and cells part.

    Returns
    -------
    tuple
        A row a pair: "size" that is expected, which is that said times the median ratio of held-out pairs, with its
        interval "low" to "high"; the sizes that "model" and "sum" (of the parts' observed effects) say; "departure",
        how far these two are apart (root mean square); the "genes" that move most; and "doubted", its parts that are.
        And what it is worth, in words.
    """
    said = {"model": effects.to_df(), "sum": sums(data, list(effects.obs_names))}
    closer = int((held["model_correlation"] > held["sum_correlation"]).sum())
    by = "model" if 2 * closer >= len(held) else "sum"
    low, high, holds = ratio_interval(held[f"{by}_ratio"], level)
    sizes = {name: np.sqrt(np.square(of).mean(axis=1)) for name, of in said.items()}
    table = pd.DataFrame({"size": sizes[by] * held[f"{by}_ratio"].median(), "low": sizes[by] * low})
    table = table.assign(high=sizes[by] * high, **sizes)
    table["departure"] = np.sqrt(np.square(said["model"] - said["sum"]).mean(axis=1))
    table["genes"] = [", ".join(row.abs().nlargest(5).index) for _, row in said[by].iterrows()]
    table["doubted"] = [
        ", ".join(p for p in data.naming.perturbations(pair) if p in set(doubted)) for pair in table.index
    ]
    words = f"Ranked by the {by}: the model was nearer than the sum in {closer} of {len(held)} pairs held out."
    words += f" Sizes are validated on these; intervals hold {holds:.0%} of further pairs like them."
    words += " Which genes move is unvalidated."
    return table.sort_values("size", ascending=False).rename_axis("pair").reset_index(), words


# --- what is kept, and where it came from -----------------------------------------------------------------


def save(folder: Path, model: Any, effects: Mapping[str, anndata.AnnData], tables: Mapping[str, pd.DataFrame]) -> Path:
    """Write a model, its effects and tables.

    Parameters
    ----------
    folder
        Where to; it is made.
    model
        A trained model, for "model.safetensors".
    effects
        Perturbations x genes by name, each for "name.h5ad".
    tables
        Tables by name, each for "name.csv"; those without rows are left out.

    Returns
    -------
    Path
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samslib.save(model, folder / "model.safetensors")
    for name, of in effects.items():
        of.write_h5ad(folder / f"{name}.h5ad")
    for name, table in tables.items():
        if len(table):
            table.to_csv(folder / f"{name}.csv", index=False)
    return folder


def origin(parameters: Mapping[str, Any], path: str, seconds: float) -> pd.DataFrame:
    """What one must know to make the report again; no folder is in it.

    Parameters
    ----------
    parameters
        What `check_parameters` returned.
    path
        The file that was read; empty for simulated cells.
    seconds
        How long it took.
    """
    named = {
        name: Path(value).name if name in ("adata_path", "save_to", "gmt") else value
        for name, value in parameters.items()
    }
    checksum = None
    if path:
        with open(path, "rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    known = provenance(named, checksum, seconds)
    known["parameters"] = ", ".join(f"{name}={value!r}" for name, value in named.items())
    known["versions"] = ", ".join(f"{name} {version}" for name, version in known["versions"].items())
    return pd.Series({name: value for name, value in known.items() if value is not None}, name="value").to_frame()
