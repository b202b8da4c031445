"""The published tables beside our grid of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd

NOT_RUN = "not run at full size"

METRICS = {  # name of a metric in the published tables, and in a row of a grid
    "relative test IWELBO": "relative test IWELBO",
    "ATE pearson": "pearson official",
    "ATE pearson, top 20": "pearson_top20 official",
}


def relative_bound(rows: pd.DataFrame) -> pd.DataFrame:
    """Held-out bounds of a grid of runs, less that of the baseline of the same data.

    The baseline is the run of SAMS-VAE in the compositional encoding at fraction 0 of the same task, split and
    training seed, as published: how probable test cells are depends on which they are, far more than on the model.

    Parameters
    ----------
    rows
        Rows of runs of chapter 5, with columns task, model, encoding, fraction, split, seed and "test IWELBO".

    Returns
    -------
    DataFrame
        The rows, with "relative test IWELBO" in nats a cell; missing where the baseline has not been run.

    Raises
    ------
    ValueError
        If a column is missing, or a baseline has two runs.
    """
    same = ["task", "split", "seed"]
    if missing := [c for c in (*same, "model", "encoding", "fraction", "test IWELBO") if c not in rows]:
        raise ValueError(f"The rows have no column {missing[0]!r}; give rows of runs of chapter 5.")
    is_baseline = (rows["model"] == "SAMS-VAE") & (rows["encoding"] == "compositional") & (rows["fraction"] == 0)
    baseline = rows[is_baseline].set_index(same)["test IWELBO"]
    if (twice := baseline.index[baseline.index.duplicated()]).size:
        raise ValueError(f"The baseline of task, split and seed {twice[0]} was run twice; keep one of the rows.")
    at = pd.MultiIndex.from_frame(rows[same])
    return rows.assign(**{"relative test IWELBO": rows["test IWELBO"].to_numpy() - baseline.reindex(at).to_numpy()})


def verdicts(published: pd.DataFrame, ours: pd.DataFrame | None = None, steps: int = 30_000) -> pd.DataFrame:
    """The published tables of chapter 5 beside our grid of runs, each number with a verdict.

    The verdict is "not run at full size" for fewer than two splits; else "reproduced" if the two means differ by
    less than twice the standard error of their difference, sqrt(s^2 / n + s'^2 / n'); else "differs". Splits of one
    number are the same in both, so this error is rather too large and the verdict mild. The baseline's own relative
    bound, 0 by definition, is left out.

    Parameters
    ----------
    published
        `data/published/norman.csv`, with mean and standard deviation over n splits.
    ours
        Rows of runs, as `relative_bound` takes them, with columns steps and the correlations of `METRICS`.
        Training seeds are averaged within a split, then splits. None: no run.
    steps
        Runs of fewer training steps do not count.

    Returns
    -------
    DataFrame
        A row for each task, model, encoding, fraction and metric: "published", "published sd", "ours", "ours
        sd", "splits" (ours) and "verdict".
    """
    keys = ["task", "model", "encoding", "fraction", "metric"]
    table = published[published["std"] > 0].rename(columns={"mean": "published", "std": "published sd"})
    table = table.assign(encoding=np.where(table["unique"], "unique", "compositional"))
    if ours is None:
        ours = pd.DataFrame(columns=[*keys[:-1], "split", "seed", "steps", "test IWELBO", *METRICS.values()])
    rows = relative_bound(ours[ours["steps"] >= steps]).rename(columns={own: name for name, own in METRICS.items()})
    rows = rows.melt([*keys[:-1], "split"], list(METRICS), "metric", "value")
    splits = rows.astype({"value": float}).groupby([*keys, "split"])["value"].mean().groupby(keys)
    found = pd.DataFrame({"ours": splits.mean(), "ours sd": splits.std(), "splits": splits.count()})
    table = table.join(found, on=keys).fillna({"splits": 0}).astype({"splits": int})
    error = np.sqrt(table["published sd"] ** 2 / table["n"] + table["ours sd"] ** 2 / table["splits"])
    near = (table["ours"] - table["published"]).abs() < 2 * error
    table["verdict"] = np.select([table["splits"] < 2, near], [NOT_RUN, "reproduced"], "differs")
    shown = [*keys, "published", "published sd", "ours", "ours sd", "splits", "verdict"]
    return table[shown].reset_index(drop=True)
