"""Effects of an ensemble, and intervals that are calibrated on validation cells."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd
from scipy.optimize import nnls

from samslib.data.messages import quoted
from samslib.validation import above, number, require

FEWEST = 5  # conditions of a kind that its intervals are calibrated on, at least
PRIOR_CELLS = 20  # what the pooled variance between cells counts in that of one condition
FOLDS = 10  # of conditions, for the coverage of those left out


def ensemble_effects(members: Sequence[anndata.AnnData]) -> anndata.AnnData:
    """The mean of the effects of several models of the same cells, and how far these are apart.

    Parameters
    ----------
    members
        A table for each model, all made in the same way by `average_effects` or `posterior_effects`, best with another
        `seed` each, so that their simulation errors are independent. A single one is allowed, and then has no variance
        between members.

    Returns
    -------
    AnnData
        A table in the form of `average_effects`: X and the layers are means over the members, but "standard_error" is
        that of the mean, and "member_variance" is the sample variance between members less that of their simulation,
        0 at least, and 0 for a single one; uns["samslib"]["members"] is their number.

    Raises
    ------
    ValueError
        For no member, and for members of different perturbations, genes, readouts or numbers of training cells.
    """
    tables = all(isinstance(table, anndata.AnnData) for table in members)
    require(len(members) and tables, "members must be tables of effects; give that of average_effects for each model.")
    first, n = members[0], len(members)
    for what, of in {
        "perturbations": lambda table: list(table.obs_names), "genes": lambda table: list(table.var_names),
        "readouts": lambda table: table.uns["samslib"]["readout"], "layers": lambda table: set(table.layers),
        "numbers of training cells": lambda table: list(table.obs.get("training_cells", ())),
    }.items():  # fmt: skip
        same = all(of(table) == of(first) for table in members)
        require(same, f"The members have different {what}; train all on the same cells and make their tables alike.")
    every = np.stack([table.X for table in members])
    mean = first.copy()
    mean.X = every.mean(0)
    mean.var = sum(table.var for table in members) / n
    for name in first.layers:
        mean.layers[name] = np.mean([table.layers[name] for table in members], axis=0)
    noise = np.mean([np.square(table.layers["standard_error"]) for table in members], axis=0)
    mean.layers["standard_error"] = np.sqrt(noise / n)
    mean.layers["member_variance"] = (every.var(0, ddof=1) - noise).clip(min=0) if n > 1 else np.zeros(first.shape)
    mean.uns["samslib"] = first.uns["samslib"] | {"members": n}
    return mean


def calibrated_effects(
    effects: anndata.AnnData,
    train: anndata.AnnData,
    val: anndata.AnnData,
    level: float = 0.9,
    cells: int | pd.Series | None = None,
    controls: int | None = None,
) -> anndata.AnnData:
    """Effects with intervals whose coverage is calibrated on validation cells (split-conformal, normalised scores).

    The effect w seen in n cells is the true one and noise, of the known variance e^2 = v / n + c / N, with v and c the
    variances between cells of a condition and between controls, and N controls. The error of the predicted u has the
    variance s^2 = a m + b e_train^2 + d v: m is what the table says of itself (posterior, simulation and members of an
    ensemble), e_train^2 is e^2 of the training cells, so that conditions of few cells may err more, and d v is an error
    that no number of cells ends. a, b, d >= 0 are the most likely ones for the validation residuals w - u, taken as
    Normal with variance s^2 + e^2. q is the `level` quantile of |w - u| / sqrt(s^2 + e^2) over all genes and validation
    conditions. There are two intervals:

    - u +- q sqrt(s^2 + e^2) is for the effect that further cells of the condition show ("cells_low", "cells_high"). Its
      coverage can be seen on held-out cells, and is that of q whatever the law of the errors, as far as conditions
      are alike;
    - u +- q s is for the true effect ("low", "high"), the same without the noise. No cells show whether it holds, and
      errors that are mostly small and sometimes large are covered more often than stated; the book's page on
      differences has both intervals measured on simulated screens.

    Coverage is marginal, over genes and conditions together. The genes of one condition err together, so that the share
    covered differs between conditions; uns["samslib"] says how far. A kind of condition that validation cells do not
    show has no intervals, such as unseen combinations after training on all that there are.

    Parameters
    ----------
    effects
        Table of `average_effects`, `posterior_effects`, `ensemble_effects` or `predictors`.
    train, val
        Tables of `data_effects` of the training cells and of validation cells, or both of `by_target`, if `effects` is.
    level
        Coverage of the intervals, between 0 and 1.
    cells
        n of the first interval: for all conditions or by name. None: as many as the condition has among the validation
        cells (the median of all if it has none).
    controls
        N of the first interval. None: as many as there are among the validation cells.

    Returns
    -------
    AnnData
        The table with layers "low", "high", "cells_low" and "cells_high", not a number where obs "validated" is False;
        and "model_sd", s. uns["samslib"] has "level"; for each kind ("trained", "unseen", "untrained": training cells
        of the condition itself, of all its parts, or not) "q ..." and "left_out ...", the mean coverage of validation
        conditions by the q of others, and "left_out_sd ..." its standard deviation over conditions; and "unvalidated",
        a sentence that names the kinds without intervals (a warning too), or "".

    Raises
    ------
    ValueError
        For a level outside (0, 1), tables of different genes or readouts, observed ones without standard errors,
        effects of a model of other training cells, numbers of cells below 1, and where no kind has 5 conditions.
    """
    above(0, 1, level=number("level", level))
    above(0, controls=controls)
    _check(effects, train, val)
    kind = _kinds(effects, train)
    kinds_of_error = _variances(effects, train)
    v = kinds_of_error[..., -1]
    seen = val.obs["cells"].reindex(effects.obs_names)
    held = _shared(val) + v / seen.to_numpy()[:, None]
    asked = seen.fillna(seen.median()) if cells is None else pd.Series(cells, effects.obs_names)
    wrong = list(asked.index[~(asked > 0)])
    require(not wrong, f"cells must be a number of 1 or above for every condition, and is not for {quoted(wrong, 3)}.")
    ratio = val.uns["samslib"]["control_cells"] / (controls or val.uns["samslib"]["control_cells"])
    further = _shared(val) * ratio + v / asked.to_numpy()[:, None]
    residual = val.to_df().reindex(effects.obs_names).to_numpy() - effects.X

    table, sd, q = effects.copy(), np.full(effects.shape, np.nan), np.full((len(kind), 1), np.nan)
    settings = {"level": level}
    for name in dict.fromkeys(kind):
        rows = (kind == name).to_numpy()
        shown = rows & seen.notna().to_numpy()
        if shown.sum() >= FEWEST:
            variance = kinds_of_error @ _most_likely(residual[shown], held[shown], kinds_of_error[shown])
            score = np.abs(residual[shown]) / np.sqrt(variance[shown] + held[shown])
            sd[rows], q[rows] = np.sqrt(variance[rows]), _quantile(score, level)
            left_out = _left_out(score, level)
            settings |= {f"q {name}": q[rows][0, 0], f"left_out {name}": left_out.mean()}
            settings[f"left_out_sd {name}"] = left_out.std(ddof=1)
    table.obs["validated"] = np.isfinite(q[:, 0])
    names = list(table.obs_names[~table.obs["validated"]])
    text = f"Fewer than {FEWEST} validation conditions are such as {quoted(names, 3)}: they have no intervals."
    require(len(names) < len(table), text + " Give validation cells of conditions like those predicted.")
    if names:
        warnings.warn(text, stacklevel=2)
    for prefix, half in {"": q * sd, "cells_": q * np.sqrt(sd**2 + further)}.items():
        table.layers[f"{prefix}low"], table.layers[f"{prefix}high"] = effects.X - half, effects.X + half
    table.layers["model_sd"] = sd
    table.uns["samslib"] = effects.uns["samslib"] | settings | {"unvalidated": text if names else ""}
    return table


def _check(effects: anndata.AnnData, train: anndata.AnnData, val: anndata.AnnData) -> None:
    require(np.isfinite(effects.X).all(), "The effects have missing or infinite values; make the table anew.")
    for what, table in {"train": train, "val": val}.items():
        require(isinstance(table, anndata.AnnData), f"{what} holds cells; give a table, data_effects({what}).")
        known = {"standard_error"} <= set(table.layers) and "control_cells" in table.uns["samslib"]
        require(known, f"{what} has no standard errors of cells; give a table of data_effects.")
        require(list(table.var_names) == list(effects.var_names), f"effects and {what} have different genes.")
        kinds = [of.uns["samslib"]["readout"] for of in (effects, table)]
        require(kinds[0] == kinds[1], f"effects are of the readout {kinds[0]!r}, {what} of {kinds[1]!r}.")
        require(effects.obs_names.isin(table.obs_names).any(), f"effects and {what} share no condition.")
    if "training_cells" in effects.obs:
        both = pd.concat([effects.obs["training_cells"], train.obs["cells"]], axis=1, join="inner")
        separator = effects.uns["samslib"]["separator"]
        combined = separator and train.obs_names.str.contains(separator, regex=False).any()
        wrong = both["training_cells"] < both["cells"] if combined else both["training_cells"] != both["cells"]
        text = f"The model was not trained on the cells of train ({quoted(list(both.index[wrong]), 3)} had others)"
        require(not wrong.any(), f"{text}; validation cells must be new to it. Give data_effects of its own split.")


def _kinds(effects: anndata.AnnData, train: anndata.AnnData) -> pd.Series:
    """What was trained of each condition: itself, all of its parts, or not all of them."""
    untrained = effects.obs.get("untrained", pd.Series(False, effects.obs_names))
    kind = pd.Series(np.where(untrained, "untrained", "unseen"), effects.obs_names)
    return kind.where(~effects.obs_names.isin(train.obs_names), "trained")


def _variances(effects: anndata.AnnData, train: anndata.AnnData) -> np.ndarray:
    """(conditions, G, 3): what the table says of itself, the training cells' noise, and the variance between cells."""
    own, pooled = _between_cells(train)
    v = own.reindex(effects.obs_names).fillna(pooled).to_numpy()
    parts = effects.obs.get("training_cells", pd.Series(np.nan, effects.obs_names))
    n = train.obs["cells"].reindex(effects.obs_names).fillna(parts).fillna(train.obs["cells"].median()).clip(lower=1)
    noise = _shared(train) + v / n.to_numpy()[:, None]
    says = sum(effects.layers.get(of, 0 * v).clip(min=0) for of in ("posterior_variance", "member_variance"))
    says = says + effects.layers.get("standard_error", 0 * v) ** 2
    return np.stack([says, noise, v], -1)


def _shared(observed: anndata.AnnData) -> np.ndarray:
    """(G,) variance of the controls' mean; within levels it is 0 here and counts with each condition's own cells."""
    settings = observed.uns["samslib"]
    return (observed.var["control_variance"] / settings["control_cells"]).to_numpy() * (not settings.get("within"))


def _between_cells(train: anndata.AnnData) -> tuple[pd.DataFrame, pd.Series]:
    """Variances between cells of each condition, drawn towards those pooled over conditions, and these, by gene."""
    n = train.obs["cells"].to_numpy(float)[:, None]
    own = np.nan_to_num((train.layers["standard_error"] ** 2 - _shared(train)) * n)
    pooled = ((n - 1) * own).sum(0) / (n - 1).sum()
    require((pooled > 0).any(), "The training cells do not vary; give conditions of two cells or more.")
    pooled = pooled.clip(min=pooled[pooled > 0].min())  # a gene that was never seen is as the rarest
    drawn = ((n - 1) * own + PRIOR_CELLS * pooled) / (n - 1 + PRIOR_CELLS)
    return pd.DataFrame(drawn, train.obs_names, train.var_names), pd.Series(pooled, train.var_names)


def _most_likely(residual: np.ndarray, noise: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(parts,) weights, 0 at least, by Fisher scoring: Normal residuals of variance noise + parts @ weights."""
    square, noise, parts = np.ravel(residual**2), np.ravel(noise), parts.reshape(-1, parts.shape[-1])
    variance = np.full(len(noise), max((square - noise).mean(), 0.0))
    for _ in range(30):
        total = noise + variance
        weights = nnls(parts / total[:, None], (square - noise) / total)[0]
        variance = parts @ weights
    return weights


def _quantile(score: np.ndarray, level: float) -> float:
    return float(np.quantile(score, min(1.0, level * (1 + 1 / score.size))))


def _left_out(score: np.ndarray, level: float) -> np.ndarray:
    """(conditions,) share of each one's genes that the quantile of the others covers, by folds of conditions."""
    fold = np.arange(len(score)) % FOLDS
    return np.array([(row < _quantile(score[fold != of], level)).mean() for row, of in zip(score, fold, strict=True)])
