"""Figures: one function each, DataFrame in, Axes out, colour-blind safe, one look everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D"]  # Okabe and Ito's, no yellow
DIVERGING, SEQUENTIAL = "RdBu_r", "cividis"
MARKERS = ["o", "s", "D", "^", "v", "P", "X"]


def use_style() -> None:
    """Set the book's look for every figure that follows."""
    sns.set_theme(
        context="notebook", style="ticks", palette=PALETTE,
        rc={
            "figure.figsize": (6.4, 3.8), "figure.dpi": 110, "figure.constrained_layout.use": True,
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.35,
            "grid.linewidth": 0.6, "legend.frameon": False, "axes.titlesize": "medium", "axes.titleweight": "bold",
            "savefig.bbox": "tight", "image.interpolation": "nearest",
        },
    )  # fmt: skip


def axes(columns: int = 1, width: float = 6.4, height: float = 3.6, **options) -> Any:
    """One Axes, or a row of `columns` of them (an array)."""
    _, made = plt.subplots(1, columns, figsize=(width, height), **options)
    return made


def matrix(frame: pd.DataFrame, label: str, ax: Axes | None = None, centre: float | None = None, **options) -> Axes:
    """Heat map of a labelled table (perturbations x latent axes, say): diverging about `centre`, else sequential."""
    ax = ax if ax is not None else axes(height=max(2.4, 0.16 * len(frame) + 1))
    colours = {"cmap": SEQUENTIAL} if centre is None else {"cmap": DIVERGING, "center": centre}
    sns.heatmap(frame, ax=ax, linewidths=0.2, linecolor="white", cbar_kws={"label": label}, **(colours | options))
    ax.tick_params(length=0, labelsize=8)
    ax.tick_params(axis="y", rotation=0)
    return ax


def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    hue: str | None = None,
    ax: Axes | None = None,
    diagonal: bool = False,
    **options,
) -> Axes:
    """Points of a table, groups told apart by colour and marker; `diagonal` draws y = x."""
    ax = ax if ax is not None else axes(width=5.2, height=4.2)
    style = {"hue": hue, "style": hue, "markers": MARKERS[: frame[hue].nunique()]} if hue else {"color": PALETTE[0]}
    sns.scatterplot(frame, x=x, y=y, ax=ax, **({"s": 22, "alpha": 0.75, "linewidth": 0} | style | options))
    if diagonal:
        ends = [min(frame[x].min(), frame[y].min()), max(frame[x].max(), frame[y].max())]
        ax.plot(ends, ends, color=PALETTE[-1], linewidth=1, linestyle="--", zorder=0)
    return ax


def lines(
    frame: pd.DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None, log_x: bool = False, **options
) -> Axes:
    """Curves with 95% intervals over repeated rows; groups told apart by colour, marker and dashes."""
    ax = ax if ax is not None else axes()
    groups = frame[hue].nunique() if hue else 1
    style = {"hue": hue, "style": hue, "markers": MARKERS[:groups], "dashes": True} if hue else {"marker": "o"}
    sns.lineplot(frame, x=x, y=y, ax=ax, **({"markersize": 5, "seed": 0} | style | options))
    if log_x:
        ax.set_xscale("log")
    return ax


def training_curves(
    history: pd.DataFrame, columns: Sequence[str] = ("loss", "val_loss"), ax: Axes | None = None
) -> Axes:
    """Columns of a History against the training step."""
    names = {"loss": "training", "val_loss": "validation (held-out bound)"}
    table = history[list(columns)].rename(columns=names).reset_index().melt("step", var_name="cells", value_name="nats")
    ax = lines(table, "step", "nats", "cells", ax=ax, markersize=4)
    ax.set(ylabel="negative bound (nats a cell)")
    return ax


def comparison(frame: pd.DataFrame, value: str, by: str, ax: Axes | None = None, unit: str = "") -> Axes:
    """Every repeat as a pale point, the mean with its 95% t interval as a dark one, a row for each group of `by`."""
    ax = ax if ax is not None else axes(height=0.5 * frame[by].nunique() + 1.4)
    table = summarise(frame, value, by)
    for i, (group, row) in enumerate(table.iterrows()):
        repeats = frame.loc[frame[by] == group, value]
        ax.plot(repeats, [i] * len(repeats), "o", color=PALETTE[5], markersize=5, alpha=0.7, zorder=1)
        ax.errorbar(
            row["mean"], i, xerr=row["half_width"], fmt="D", color=PALETTE[0], capsize=4, markersize=6, zorder=2
        )
    ax.set_yticks(range(len(table)), table.index)
    ax.set_ylim(len(table) - 0.5, -0.5)
    ax.set(xlabel=f"{value} ({unit})" if unit else value)
    return ax


def summarise(frame: pd.DataFrame, value: str, by: str) -> pd.DataFrame:
    """Per group, in order of appearance: mean, half width of the 95% t interval of the mean, number of repeats."""
    from scipy.stats import t

    groups = frame.groupby(by, sort=False)[value]
    n = groups.size()
    half = groups.std(ddof=1) / np.sqrt(n) * t.ppf(0.975, (n - 1).clip(lower=1))
    return pd.DataFrame({"mean": groups.mean(), "half_width": half, "repeats": n})
