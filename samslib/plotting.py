"""Figures: one function each, DataFrame in, Axes out, colour-blind safe, one look everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from pandas import DataFrame, Index, Series
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.stats import beta, t

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D"]  # Okabe and Ito's, no yellow
DIVERGING = sns.blend_palette(["#00598B", "#F4F4F4", "#B34700"], as_cmap=True)  # its ends differ on a dark page, too
SEQUENTIAL = "Blues"  # in both, nothing has the colour of the page
MARKERS = ["o", "s", "D", "^", "v", "P", "X"]
DASHES = ["", (4, 1.5), (1, 1), (3, 1, 1.5, 1), (5, 1, 1, 1), (5, 1, 2, 1, 2, 1), (2, 2, 3, 1.5)]
MODELS = {"SAMS-VAE": 0, "CPA-VAE": 1, "conditional VAE": 2, "SVAE+": 3, "CPA": 4, "CRADLE-VAE": 5, "additive": 6}
PAGE, PLOT = 7.0, 3.75  # inches: a page's column, and a figure of one panel, which a phone hardly scales down
DENSE = 200  # points, above which they are drawn as one picture inside the figure


def use_style() -> None:
    """Set the book's look for every figure that follows: without a background, and drawn as SVG in a notebook."""
    sns.set_theme(style="ticks", palette=PALETTE)
    plt.style.use("samslib.figures")
    if "inline" in plt.get_backend():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        # As large as it was made, so that text has its size; the same figure is the same file.
        set_matplotlib_formats("svg", bbox_inches=None, metadata={"Date": None})


def looks(names: Iterable[Any]) -> dict[Any, tuple[str, str, Any]]:
    """Colour, marker and dashes of each name of a figure: a model's are the same in every figure.

    Parameters
    ----------
    names
        Groups of a figure. "SAMS-VAE, unique" is a variant: it has SAMS-VAE's colour, and a free marker and dashes if
        SAMS-VAE is there, too. Names of no model take what is left, beside models from the end.

    Returns
    -------
    dict
        From each name to its colour, its marker and its dashes (as Matplotlib takes them; "" for none).
    """
    names = sorted(dict.fromkeys(names), key=lambda name: name not in MODELS)
    own = {name: MODELS[root] for name in names if (root := str(name).split(",")[0]) in MODELS}
    order = range(7)[:: -1 if own else 1]
    spare = itertools.cycle([i for i in order if i not in own.values()] or order)
    found: dict[Any, tuple[str, str, Any]] = {}
    for name in names:
        i = own[name] if name in own else next(spare)
        j = next(spare) if (PALETTE[i], MARKERS[i], DASHES[i]) in found.values() else i
        found[name] = (PALETTE[i], MARKERS[j], DASHES[j])
    return found


def axes(
    columns: int = 1, width: float | None = None, height: float = 3.2, titles: Iterable[str] = (), sharey: bool = False,
    **options,
) -> Any:  # fmt: skip
    """Empty axes, one or a row of several: panels of equal width, each whole by itself, which a narrow page stacks.

    Parameters
    ----------
    columns
        Number of panels.
    width, height
        Size of the whole figure, in inches. The width is at most, and for several panels by default, that of the book's
        page, which would scale down anything wider and its text with it.
    titles
        A title above each panel and its legend; none by default.
    sharey
        Whether the vertical axes have one scale. Each panel still has its own labels.
    **options
        Further arguments of `matplotlib.figure.Figure.add_subplot`.

    Returns
    -------
    Axes or array
        One Axes, or an array of `columns` of them, (columns,).
    """
    size = (min(width or (PLOT if columns == 1 else PAGE), PAGE), height)
    figure = plt.figure(figsize=size, layout=_Level(wspace=0))
    made: list[Axes] = []
    for part in figure.subfigures(1, columns, squeeze=False)[0]:
        made.append(part.add_subplot(sharey=made[0] if made and sharey else None, **options))
    for ax, title in zip(made, titles, strict=False):
        ax.figure.suptitle(title)
    return made[0] if columns == 1 else np.array(made)


class _Level(ConstrainedLayoutEngine):
    """Panels are equally high, whatever stands above and below them; panels with colour bars are left as they are."""

    def execute(self, figure: Any) -> None:
        super().execute(figure)
        if all(len(part.axes) == 1 for part in figure.subfigs):
            boxes = [part.axes[0].get_position(original=True) for part in figure.subfigs]
            low, high = max(box.y0 for box in boxes), min(box.y1 for box in boxes)
            for part, box in zip(figure.subfigs, boxes, strict=True):  # the public method would end the layout
                part.axes[0]._set_position((box.x0, low, box.width, high - low))


def matrix(frame: DataFrame, label: str, ax: Axes | None = None, centre: float | None = None, **options) -> Axes:
    """Heat map of a labelled table, such as perturbations x latent axes, with as many names as can be read.

    Parameters
    ----------
    frame
        Numbers to draw, one cell each; the names of rows and columns label the axes, or are counted where they are too
        many: more than 50 rows or 40 columns.
    label
        Text of the colour bar: the quantity and its unit.
    ax
        Axes to draw in; None makes a figure as high as the rows need.
    centre
        Value in the middle of a diverging colour map; None takes a sequential one.
    **options
        Further arguments of `seaborn.heatmap`, which come before those set here.

    Returns
    -------
    Axes
        The axes drawn in.
    """
    frame = frame.rename(columns=lambda name: str(name).removeprefix(f"{frame.columns.name}_"))
    rows, columns = frame.shape
    ax = ax or axes(height=float(np.clip(0.16 * rows + 1.6, 2.6, 9)))
    style: dict[str, Any] = {"cmap": SEQUENTIAL} if centre is None else {"cmap": DIVERGING, "center": centre}
    style |= {"linewidths": 0.2 * (rows * columns < 2000), "cbar_kws": {"label": label, "location": "bottom"}}
    style |= {"xticklabels": columns <= 40 and "auto", "yticklabels": rows <= 50, "rasterized": rows * columns > DENSE}
    style |= {"linecolor": "white", "cbar": not frame.isin([0, 1]).all(axis=None)}  # yes and no need no scale
    sns.heatmap(frame, ax=ax, **(style | options))
    ax.tick_params(length=0, rotation=0)
    ax.tick_params(axis="x", rotation=90 if max(map(len, map(str, frame))) > 2 else 0)
    ax.set(xlabel=_counted(frame.columns, 40), ylabel=_counted(frame.index, 50))
    return ax


def matrices(frames: Mapping[str, DataFrame], label: str, centre: float | None = None, **options) -> np.ndarray:
    """Heat maps side by side, on one colour scale that saturates at the 99th percentile of absolute values.

    Parameters
    ----------
    frames
        Tables by their titles, such as truth beside inference; give them the same order of rows and of columns.
    label
        Text of the colour bars: the quantity and its unit.
    centre
        0 for a diverging colour map about zero; None takes a sequential one that starts there.
    **options
        Further arguments of `seaborn.heatmap`, which come before those set here.

    Returns
    -------
    array
        The axes drawn in, (number of tables,).
    """
    height = 0.17 * max(map(len, frames.values())) + 1.6
    panels = np.atleast_1d(axes(len(frames), height=height, titles=[*frames]))
    limit = max(float(np.quantile(np.abs(frame.to_numpy(dtype=float)), 0.99)) for frame in frames.values()) or 1.0
    style: dict[str, Any] = {"vmin": 0 if centre is None else -limit, "vmax": limit, "cbar": True}
    for ax, frame in zip(panels, frames.values(), strict=True):
        matrix(frame, label, ax, centre, **(style | options))
    return panels


def scatter(
    frame: DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None, diagonal: bool = False, **options
) -> Axes:
    """Points of a table, groups told apart by colour and marker.

    Parameters
    ----------
    frame
        A row a point.
    x, y
        Columns of the horizontal and the vertical position.
    hue
        Column of groups, at most seven; None draws all points alike.
    ax
        Axes to draw in; None makes a figure.
    diagonal
        Whether to draw the line y = x.
    **options
        Further arguments of `seaborn.scatterplot`, which come before those set here.

    Returns
    -------
    Axes
        The axes drawn in.
    """
    ax = ax or axes(height=4)
    marks = {"color": PALETTE[0]} if hue is None else _marks(frame, hue, options)
    style = {"s": 22, "alpha": 0.75, "linewidth": 0, "rasterized": len(frame) > DENSE}
    sns.scatterplot(frame, x=x, y=y, ax=ax, **(style | marks | options))
    _legend_above(ax)
    if diagonal:
        ends = [min(frame[x].min(), frame[y].min()), max(frame[x].max(), frame[y].max())]
        ax.plot(ends, ends, color=PALETTE[-1], linewidth=1, linestyle="--", zorder=0)
    return ax


def lines(
    frame: DataFrame, x: str, y: str, hue: str | None = None, ax: Axes | None = None, log_x: bool = False, **options
) -> Axes:
    """Curves with 95% intervals over repeated rows; groups told apart by colour, marker and dashes.

    Parameters
    ----------
    frame
        A row a value. Rows of the same x and group are repeats, drawn as their mean and its bootstrap interval.
    x, y
        Columns of the horizontal and the vertical position.
    hue
        Column of groups, at most seven, a curve each; None draws one curve.
    ax
        Axes to draw in; None makes a figure.
    log_x
        Whether the horizontal axis is logarithmic.
    **options
        Further arguments of `seaborn.lineplot`, which come before those set here.

    Returns
    -------
    Axes
        The axes drawn in.
    """
    ax = ax or axes()
    style: dict[str, Any] = {"marker": "o"}
    if hue is not None:
        style = _marks(frame, hue, options)
        style["dashes"] = {name: dash for name, (_, _, dash) in looks(style["hue_order"]).items()}
    sns.lineplot(frame, x=x, y=y, ax=ax, **({"markersize": 5, "seed": 0} | style | options))
    _legend_above(ax)
    if log_x:
        ax.set_xscale("log")
    return ax


def training_curves(history: DataFrame, columns: Sequence[str] = ("loss", "val_loss"), ax: Axes | None = None) -> Axes:
    """Columns of a training history against the training step.

    Parameters
    ----------
    history
        Table of a training run, its index named "step"; values are negative bounds, in nats a cell.
    columns
        Columns to draw, a curve each. The default is the training loss and the held-out bound.
    ax
        Axes to draw in; None makes a figure.

    Returns
    -------
    Axes
        The axes drawn in.
    """
    names = {"loss": "training", "val_loss": "validation (held-out bound)"}
    table = history[list(columns)].rename(columns=names).reset_index().melt("step", var_name="cells", value_name="nats")
    ax = lines(table, "step", "nats", "cells", ax=ax, markersize=4)
    ax.set(ylabel="negative bound (nats a cell)")
    return ax


def comparison(frame: DataFrame, value: str, by: str, ax: Axes | None = None, unit: str = "") -> Axes:
    """Every repeat as a pale point, the mean with its 95% t interval as a dark one, a row for each group.

    Parameters
    ----------
    frame
        A row a repeat.
    value
        Column of the quantity compared.
    by
        Column of groups, drawn as rows in order of appearance.
    ax
        Axes to draw in; None makes a figure as high as the groups need.
    unit
        Unit of the quantity, for the axis; none is written by default.

    Returns
    -------
    Axes
        The axes drawn in.
    """
    table = summarise(frame, value, by).reset_index()
    table = table.assign(low=table["mean"] - table["half_width"], high=table["mean"] + table["half_width"])
    ax = intervals(table.rename(columns={"mean": value}), value, by, ax=ax, unit=unit)
    at = frame[by].map({group: i for i, group in enumerate(table[by])})
    ax.plot(frame[value], at, "o", color=PALETTE[-1], markersize=5, alpha=0.3, zorder=1, markeredgewidth=0)
    return ax


def summarise(frame: DataFrame, value: str, by: str) -> DataFrame:
    """Mean of each group and its 95% t interval.

    Parameters
    ----------
    frame
        A row a repeat.
    value
        Column of the quantity averaged.
    by
        Column of groups.

    Returns
    -------
    DataFrame
        A row a group, in order of appearance: "mean", "half_width" of the 95% t interval of the mean (missing for a
        single repeat) and the number of "repeats".
    """
    groups = frame.groupby(by, sort=False)[value]
    n = groups.size()
    half = groups.std(ddof=1) / np.sqrt(n) * t.ppf(0.975, (n - 1).clip(lower=1))
    return DataFrame({"mean": groups.mean(), "half_width": half, "repeats": n})


def bounds(
    frame: DataFrame, x: str = "particles", y: str = "bound", hue: str | None = None, ax: Axes | None = None
) -> Axes:
    """A bound in nats a cell against the number of particles, on a logarithmic axis that names each number used.

    The axis of nats does not start at zero, because a bound's zero means nothing.

    Parameters
    ----------
    frame
        A row a value of the bound, or several of one number of particles, whose mean and 95% interval are drawn.
    x
        Column of the number of particles.
    y
        Column of the bound, in nats a cell.
    hue
        Column of groups, such as bounds or models, a curve each; None draws one curve.
    ax
        Axes to draw in; None makes a figure.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        For missing columns or a table without rows.
    """
    ax = lines(_with(frame, x, y, hue), x, y, hue, ax=ax, log_x=True)
    ax.set_xticks(used := sorted(frame[x].unique()), [f"{value:g}" for value in used])
    ax.minorticks_off()
    ax.set(xlabel="particles", ylabel="bound (nats a cell)")
    return ax


def effects_scatter(
    frame: DataFrame, x: str = "observed", y: str = "model", ax: Axes | None = None, unit: str = "log2 fold change"
) -> Axes:
    """One quantity against another over many (perturbation, gene) pairs, as the density of hexagons, with y = x.

    Both axes have one linear scale; colours count pairs, logarithmically. The title holds Pearson's r and the number of
    pairs.

    Parameters
    ----------
    frame
        A row a (perturbation, gene) pair.
    x, y
        Columns of the two quantities, in the same unit.
    ax
        Axes to draw in; None makes a figure.
    unit
        Unit of both quantities, for the axes.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        For missing columns or values, or a table without rows.
    """
    ax = ax or axes(height=4.7)
    table = _with(frame, x, y)[[x, y]]
    if not np.isfinite(table.to_numpy(dtype=float)).all():
        raise ValueError(f"{x!r} or {y!r} has missing values; drop these rows.")
    low, high = float(table.min().min()), float(table.max().max())
    margin = 0.04 * (high - low or 1)
    ends = (low - margin, high + margin)
    drawn = ax.hexbin(
        table[x], table[y], gridsize=45, extent=(*ends, *ends), bins="log", mincnt=1, cmap=SEQUENTIAL, linewidths=0.1,
        rasterized=True,
    )  # fmt: skip
    ax.plot(ends, ends, color=PALETTE[1], linewidth=1.2, linestyle="--")
    ax.set(xlim=ends, ylim=ends, xlabel=f"{x} ({unit})", ylabel=f"{y} ({unit})", aspect="equal")
    ax.figure.colorbar(drawn, ax=ax, label="pairs a hexagon", location="bottom")
    ax.set_title(f"r = {table.corr().iloc[0, 1]:.2f}, {len(table):,} pairs", loc="left")
    return ax


def effect_map(table: Any, label: str = "effect", layer: str | None = None, ax: Axes | None = None) -> Axes:
    """Heat map of effects, perturbations x genes, with like rows and like columns side by side.

    Rows and columns are ordered by average linkage of their Euclidean distances; colours diverge about zero and
    saturate at the 99th percentile of absolute values, so that one gene does not hide the others. Names are left out
    where they would not be readable.

    Parameters
    ----------
    table
        Effects, perturbations x genes: a DataFrame or an AnnData.
    label
        Text of the colour bar: the quantity and its unit.
    layer
        Layer of the AnnData to draw; None for its X.
    ax
        Axes to draw in; None makes a figure as high as the rows need.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        For an empty table or missing values.
    """
    frame = _frame(table, layer)

    def order(v: np.ndarray) -> np.ndarray:
        return leaves_list(linkage(v, "average", optimal_ordering=True)) if len(v) > 2 else np.arange(len(v))

    values = frame.to_numpy(dtype=float)
    frame = frame.iloc[order(values), order(values.T)]
    limit = float(np.quantile(np.abs(values), 0.99)) or float(np.abs(values).max()) or 1.0
    return matrix(frame, label, ax, cmap=DIVERGING, vmin=-limit, vmax=limit)


def mask_map(
    table: Any,
    annotations: Mapping[str, str] | Series | None = None,
    label: str = "probability that the mask is on",
    layer: str | None = "M",
    order: Sequence[Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of mask probabilities, perturbations x latent axes, rows ordered by annotation and named by it.

    Parameters
    ----------
    table
        Probabilities, perturbations x latent axes: a DataFrame, or an AnnData with the layer.
    annotations
        Label of each perturbation, by name. Rows without one come last. None keeps the rows' order and names.
    label
        Text of the colour bar.
    layer
        Layer of the AnnData to draw; None for its X.
    order
        Latent axes in the order to draw, such as that of another figure; None orders them by the row of their centre,
        so that blocks lie along a diagonal.
    ax
        Axes to draw in; None makes a figure as high as the rows need.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        If no row is annotated, for an empty table or for missing values.
    """
    frame = _frame(table, layer)
    if annotations is not None:
        groups = Series(annotations, dtype=object).reindex(frame.index)
        if groups.isna().all():
            raise ValueError("No row is annotated; the annotations must have the names of the rows.")
        groups = groups.sort_values(kind="stable").fillna("not annotated")
        frame = frame.loc[groups.index]
    weight = frame.to_numpy(dtype=float) ** 2
    centre = (np.arange(len(frame)) @ weight) / np.where(weight.sum(0) > 0, weight.sum(0), np.nan)
    by_centre = frame.columns[np.argsort(np.nan_to_num(centre, nan=np.inf), kind="stable")]
    frame = frame[by_centre if order is None else [*order]]
    ax = matrix(frame, label, ax, vmin=0, vmax=1)
    if annotations is not None:
        _name_blocks(ax, groups)
    return ax


def calibration(frame: DataFrame, p: str = "p_two_sided", hue: str | None = "summary", ax: Axes | None = None) -> Axes:
    """Ordered p-values against the quantiles of a uniform law, with the band that holds 95% of each under that law.

    The band is pointwise, from the Beta law of order statistics, for the largest group: points below it say that small
    p-values are too many.

    Parameters
    ----------
    frame
        A row a p-value.
    p
        Column of the p-values.
    hue
        Column of groups, each ordered apart; None takes all rows as one group.
    ax
        Axes to draw in; None makes a figure.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        For values outside [0, 1], missing columns or a table without rows.
    """
    if not _with(frame, p, hue)[p].between(0, 1).all():
        raise ValueError(f"Column {p!r} holds values that are no probabilities.")
    ax = ax or axes(height=4)
    groups = _groups(frame, hue)
    n = max(len(group) for _, group, _, _ in groups)
    rank = np.arange(1, n + 1)
    low, high = beta.ppf([[0.025], [0.975]], rank, n + 1 - rank)
    ax.fill_between(rank / (n + 1), low, high, color=PALETTE[-1], alpha=0.18, linewidth=0, label="95% if true")
    ax.plot([0, 1], [0, 1], color=PALETTE[-1], linewidth=1, linestyle="--")
    for name, group, colour, marker in groups:
        expected = np.arange(1, len(group) + 1) / (len(group) + 1)
        dots: dict[str, Any] = {"color": colour, "markersize": 3.5, "markeredgewidth": 0}
        dots |= {"label": _text(name) or None, "rasterized": len(group) > DENSE}
        ax.plot(expected, np.sort(group[p]), marker, **dots)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="uniform quantile", ylabel="ordered p-value", aspect="equal")
    _legend_above(ax)
    return ax


def dose_response(
    frame: DataFrame,
    x: str = "dose",
    y: str = "effect",
    hue: str | None = None,
    low: str | None = None,
    high: str | None = None,
    points: DataFrame | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Curves of a response against the dose, with bands, and observed points on top.

    Zero on the axis of effects is marked, since it means no effect.

    Parameters
    ----------
    frame
        A row a (group, dose).
    x, y
        Columns of the dose and of the response.
    hue
        Column of groups, a curve each; None draws one curve.
    low, high
        Columns of the ends of the band; None, for either, draws no band.
    points
        Observed responses with the same columns x, y and hue. If they also have low and high, these are drawn as error
        bars. None draws no points.
    ax
        Axes to draw in; None makes a figure.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        For missing columns or a table without rows.
    """
    ax = ax or axes()
    table = _with(frame, x, y, hue, low, high).sort_values(x, kind="stable")
    ax.axhline(0, color=PALETTE[-1], linewidth=0.8)
    for name, group, colour, marker in _groups(table, hue):
        dashes = looks(table[hue])[name][2] if hue else ""
        ax.plot(group[x], group[y], color=colour, label=name or None, linestyle=(0, dashes) if dashes else "-")
        if low and high:
            ax.fill_between(group[x], group[low], group[high], color=colour, alpha=0.2, linewidth=0)
        if points is not None:
            seen = _with(points, x, y, hue)
            seen = seen if hue is None else seen[seen[hue] == name]
            error = np.stack([seen[y] - seen[low], seen[high] - seen[y]]) if low in seen and high in seen else None
            ax.errorbar(seen[x], seen[y], yerr=error, fmt=marker, color=colour, markersize=5, capsize=2, linewidth=1)
    ax.set(xlabel=x, ylabel=y)
    _legend_above(ax)
    return ax


def intervals(
    frame: DataFrame,
    value: str,
    by: str,
    low: str = "low",
    high: str = "high",
    hue: str | None = None,
    reference: float | None = None,
    zero: bool = False,
    ax: Axes | None = None,
    unit: str = "",
) -> Axes:
    """Values with intervals that the table itself holds: a row for each group of `by`, a dot for each of `hue`.

    `comparison` is the figure for tables of repeats.

    Parameters
    ----------
    frame
        A row a value with its interval.
    value
        Column of the quantity compared.
    by
        Column of groups, drawn as rows in order of appearance.
    low, high
        Columns of the ends of the interval, in the unit of the value.
    hue
        Column of kinds within a group, a dot each; None draws one dot a row.
    reference
        Value at which to draw a line: chance, a ceiling, no effect. None draws none.
    zero
        Whether to draw bars from zero to the dots and start the axis there, for values whose zero means something, such
        as a share. Dots alone claim nothing about zero.
    ax
        Axes to draw in; None makes a figure as high as the rows need.
    unit
        Unit of the quantity, for the axis; none is written by default.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        For missing columns or a table without rows.
    """
    table = _with(frame, value, by, low, high, hue)
    rows, groups = list(table[by].unique()), _groups(table, hue)
    n = 1 if table[by].is_unique else len(groups)  # beside each other only where a row has several
    ax = ax or axes(height=(0.14 + 0.13 * n) * sum(1 + (len(str(row)) > 24) for row in rows) + 1)
    if hue is None:  # a row is named already, and a model keeps its colour
        model = {name: MODELS.get(str(name).split(",")[0], -1) for name in rows}
        dots = [(PALETTE[i], MARKERS[i] if i >= 0 else "o") for i in model.values()]
        groups = [("", table[table[by] == name], *dot) for name, dot in zip(rows, dots, strict=True)]
    for j, (kind, group, colour, marker) in enumerate(groups):
        at = group[by].map(rows.index) + (j % n - (n - 1) / 2) * 0.6 / max(n, 2)
        error = np.stack([group[value] - group[low], group[high] - group[value]])
        if zero:
            ax.barh(at, group[value], height=0.4 / n, color=colour, alpha=0.35, linewidth=0)
        ax.errorbar(group[value], at, xerr=error, fmt=marker, color=colour, capsize=3, markersize=6, label=kind or None)
    if reference is not None:
        ax.axvline(reference, color=PALETTE[-1], linewidth=1, linestyle="--")
    if zero:
        ax.set_xlim(left=min(0, ax.get_xlim()[0]) if (table[low] < 0).any() else 0)
    ax.set_yticks(range(len(rows)), [fill(str(row), 24) for row in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{_text(value)} ({unit})" if unit else _text(value))
    ax.grid(axis="y", visible=False)
    _legend_above(ax)
    return ax


def predictive(frame: DataFrame, ax: Axes | None = None, most: int = 30) -> Axes:
    """One summary of a posterior predictive check, observed and replicated, a row a perturbation.

    The 95% interval of the replicates is a bar, the observed value a dot with twice its standard error. Perturbations
    that fit worst come first.

    Parameters
    ----------
    frame
        Rows of `samslib.evaluate.predictive_check` of one summary and gene set, which the axis names.
    ax
        Axes to draw in; None makes a figure as high as the rows need.
    most
        Largest number of perturbations drawn.

    Returns
    -------
    Axes
        The axes drawn in.

    Raises
    ------
    ValueError
        For a table of several summaries or gene sets, missing columns or a table without rows.
    """
    columns = "perturbation summary genes observed standard_error replicated_low replicated_high p_two_sided".split()
    kinds = _with(frame, *columns)[["summary", "genes"]].drop_duplicates()
    if len(kinds) != 1:
        raise ValueError(f"The table has {len(kinds)} pairs of summary and genes; choose the rows of one.")
    table = frame.sort_values("p_two_sided", kind="stable").head(most).assign(kind="observed, 2 standard errors")
    table["low"] = table["observed"] - 2 * table["standard_error"]
    table["high"] = table["observed"] + 2 * table["standard_error"]
    ax = ax or axes(height=0.24 * len(table) + 1.4)
    ax.use_sticky_edges = False  # a bar that does not start at zero needs room on both sides
    left, right = table["replicated_low"], table["replicated_high"]
    ax.barh(range(len(table)), right - left, 0.6, left, color=PALETTE[-1], alpha=0.25, label="replicated, 95%")
    intervals(table, "observed", "perturbation", hue="kind", ax=ax)
    summary, genes = kinds.iloc[0]
    ax.set(xlabel=f"{_text(summary)} ({genes})")
    return ax


def _with(frame: DataFrame, *columns: str | None) -> DataFrame:
    """The table, if it has rows and these columns; else a ValueError that names the first missing one."""
    if missing := [name for name in columns if name is not None and name not in frame]:
        raise ValueError(f"The table has no column {missing[0]!r}; its columns are {list(map(str, frame))}.")
    if not len(frame):
        raise ValueError("The table has no rows; there is nothing to draw.")
    return frame


def _frame(table: Any, layer: str | None) -> DataFrame:
    """A DataFrame as it is, an AnnData's X or layer as a DataFrame."""
    frame = table if isinstance(table, DataFrame) else table.to_df(layer)
    if not frame.size or not np.isfinite(frame.to_numpy(dtype=float)).all():
        raise ValueError("The table is empty or has missing values; drop these rows.")
    return frame


def _text(name: object) -> str:
    """A column's name as a reader would write it."""
    return str(name).replace("_", " ")


def _legend_above(ax: Axes) -> None:
    """Off the data whatever their shape, in as many columns as fit; a title is kept where names are numbers."""
    handles, names = ax.get_legend_handles_labels()
    if not names:
        return
    room = (ax.figure.bbox.width / ax.figure.dpi - 0.8) * 72 / 5.5  # characters
    columns = int(max(1, min(len(names), room // (max(map(len, names)) + 4))))
    old = ax.get_legend()
    title = old.get_title().get_text() if old and names[0].replace(".", "").isdigit() else None
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    ax.legend(handles, names, ncols=columns, columnspacing=1, handlelength=1.8, title=title, **place)


def _groups(table: DataFrame, hue: str | None) -> list[tuple[Any, DataFrame, str, str]]:
    """The rows of each group with its name, colour and marker; without `hue` all rows, without a name."""
    if hue is None:
        return [("", table, PALETTE[0], MARKERS[0])]
    look = looks(table[hue])
    return [(name, rows, *look[name][:2]) for name, rows in table.groupby(hue, sort=False)]


def _marks(frame: DataFrame, hue: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Order, colours and markers of the groups, as seaborn takes them."""
    look = looks(order := [*options.get("hue_order", frame[hue].unique())])
    colours, markers = ({name: look[name][i] for name in order} for i in (0, 1))
    return {"hue": hue, "style": hue, "hue_order": order, "style_order": order, "palette": colours, "markers": markers}


def _counted(names: Index, most: int) -> str:
    """ "gene", or "722 genes" where the names are left out."""
    noun = {"axis": "axes"}.get(str(names.name), f"{names.name or 'row'}s")
    return f"{len(names)} {noun}" if len(names) > most else str(names.name or "")


def _name_blocks(ax: Axes, groups: Series) -> None:
    """Names of consecutive rows of one group in place of the rows' own, and lines between groups."""
    edge = np.flatnonzero(np.r_[True, groups.to_numpy()[1:] != groups.to_numpy()[:-1], True])
    for position in edge[1:-1]:
        ax.axhline(position, color="white", linewidth=1.5)
    ax.set_yticks((edge[:-1] + edge[1:]) / 2, groups.iloc[edge[:-1]])
    ax.set(ylabel="")
