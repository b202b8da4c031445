"""Which cells train, validate and test: the splits of the published experiments, cell for cell.

Each function returns a splitter for `PerturbationData.split`: a callable that gives "train", "val", "test" or
"" (left out) a cell. The random streams are those of the published code (scikit-learn's `train_test_split`
over cell positions, NumPy's `default_rng` over names), so that a table in the same order is split the same
way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from samslib.data.container import PerturbationData, check_data
from samslib.data.selection import check_split
from samslib.validation import DataError, in_order

Splitter = Callable[[PerturbationData], np.ndarray]


def _cut(positions: np.ndarray, seed: int, **size: float) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's shuffled cut in two, for at least two cells."""
    from sklearn.model_selection import train_test_split

    if len(positions) < 2:
        raise DataError(f"{len(positions)} cell(s) cannot be split in two; a split needs more cells of each kind.")
    first, second = train_test_split(positions, random_state=seed, **size)
    return first, second


def _fraction(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise DataError(f"{name} is {value}; it must be between 0 and 1.")


def _assign(cells: int, **parts: np.ndarray) -> np.ndarray:
    part = np.full(cells, "", dtype="<U5")
    for name, positions in parts.items():
        part[positions] = name
    return check_split(part, cells)


def random(seed: int = 0, train: float = 0.8) -> Splitter:
    """Cells at random, the paper's Replogle split: a share `train` apart from the test, of which `train`
    trains.

    The default is 64% training, 16% validation and 20% test cells. Raises DataError for a share outside (0,
    1).
    """
    _fraction("train", train)
    if train in (0, 1):
        raise DataError(f"train is {train}, which leaves a part of the split empty; 0.8 is usual.")

    def split(data: PerturbationData) -> np.ndarray:
        rest, test = _cut(np.arange(len(check_data(data, "A split"))), seed, train_size=train)
        fit, val = _cut(rest, seed, train_size=train)
        return _assign(len(data), train=fit, val=val, test=test)

    return split


def _by_guides(data: PerturbationData, seed: int) -> dict[str, np.ndarray]:
    """Both Norman splits start here: cells of combinations 64/16/20, all other cells 80/20 without a test
    part."""
    combined = np.flatnonzero(check_data(data, "A split").n_perturbations >= 2)
    if not len(combined):
        raise DataError("No cell has two perturbations, so there are no combinations to hold out; use splits.random.")
    rest, test = _cut(combined, seed, test_size=0.2)
    train, val = _cut(rest, seed, test_size=0.2)
    other_train, other_val = _cut(np.flatnonzero(data.n_perturbations < 2), seed, test_size=0.2)
    return dict(train=train, val=val, test=test, other_train=other_train, other_val=other_val)


def combinations(
    fraction: float, seed: int = 0, test: float = 0.25, names: Sequence[str] | np.ndarray | None = None
) -> Splitter:
    """Unseen combinations (the paper's out-of-distribution task on Norman et al.).

    The distinct combinations, as the names were written, are shuffled: the first `fraction` of them train and
    validate, the last share `test` of them are tested on a fifth of their cells, and other cells of
    combinations are left out. Cells with at most one perturbation are in training (80%) or validation (20%).
    At fraction + test > 1 some tested combinations are trained on as well, as published. `names` (n,) are the
    names to list combinations by, where they were published under others than `data` has: for
    `datasets.load("norman")`, its `obs["guide_identity"]`. Raises DataError for shares outside [0, 1], data
    without combinations, parts with fewer than two cells, and names that are not one a cell.
    """
    _fraction("fraction", fraction)
    _fraction("test", test)

    def split(data: PerturbationData) -> np.ndarray:
        cells = _by_guides(data, seed)
        written = data.raw_labels if names is None else in_order(names, data.cells, "cells").astype(object)
        if written.shape != (len(data),):
            raise DataError(f"There are {len(written)} names for {len(data)} cells; give one a cell.")
        listed = np.array(sorted(set(written[data.n_perturbations >= 2])), dtype=object)
        np.random.default_rng(seed).shuffle(listed)
        known = listed[: int(fraction * len(listed))]
        held = listed[len(listed) - ceil(test * len(listed)) :]
        only = lambda part, wanted: cells[part][np.isin(written[cells[part]], wanted)]  # noqa: E731
        return _assign(
            len(data),
            train=np.concatenate([cells["other_train"], only("train", known)]),
            val=np.concatenate([cells["other_val"], only("val", known)]),
            test=only("test", held),
        )

    return split


def combination_cells(fraction: float, seed: int = 0) -> Splitter:
    """Few cells of each combination (the paper's data-efficiency task on Norman et al.).

    Cells of combinations are split 64/16/20 and only the first `fraction` of the shuffled training cells is
    kept; validation and test are the same at every fraction. Cells with at most one perturbation are in
    training (80%) or validation (20%). Raises DataError as `combinations` does.
    """
    _fraction("fraction", fraction)

    def split(data: PerturbationData) -> np.ndarray:
        cells = _by_guides(data, seed)
        kept = cells["train"][: int(fraction * len(cells["train"]))]
        return _assign(
            len(data),
            train=np.concatenate([cells["other_train"], kept]),
            val=np.concatenate([cells["other_val"], cells["val"]]),
            test=cells["test"],
        )

    return split
