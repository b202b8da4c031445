"""Which cells train, validate and test: the splits of the published experiments, cell for cell.

Each function returns a splitter for `PerturbationData.split`: a function of data that gives "train", "val", "test" or
"" (left out) for each cell. The random streams are those of the published code (scikit-learn's `train_test_split` over
cell positions, NumPy's `default_rng` over names), so that a table in the same order is split the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from samslib.data.container import PerturbationData, check_data, in_order, split_labels
from samslib.validation import DataError, above, share

Splitter = Callable[[PerturbationData], np.ndarray]


def _cut(positions: np.ndarray, first: float, seed: int) -> Sequence[np.ndarray]:
    """Two parts of at least two cells, shuffled by scikit-learn; `first` is the share of the first."""
    from sklearn.model_selection import train_test_split

    if len(positions) < 2:
        raise DataError(f"{len(positions)} cell(s) cannot be split in two; a split needs more cells of each kind.")
    return train_test_split(positions, train_size=first, random_state=seed)


def _cut_twice(positions: np.ndarray, first: float, seed: int) -> tuple[np.ndarray, ...]:
    rest, test = _cut(positions, first, seed)
    train, val = _cut(rest, first, seed)
    return train, val, test


def _labelled(data: PerturbationData, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> np.ndarray:
    label = np.full(len(data), "", dtype="<U5")
    label[train], label[val], label[test] = "train", "val", "test"
    return split_labels(data, label)


def random(train: float = 0.8, *, seed: int = 0) -> Splitter:
    """Cells at random: by default 64% train, 16% validate and 20% test.

    Parameters
    ----------
    train
        Share of the cells that are not for testing, and the share of these that train; above 0 and below 1.
    seed
        Of the shuffle.

    References
    ----------
    The split of the Replogle experiments in Bereket and Karaletsos 2023 (SAMS-VAE).
    """
    above(0, 1, train=train)

    return lambda data: _labelled(data, *_cut_twice(np.arange(len(check_data(data, "A split"))), train, seed))


def _hold_out(data: PerturbationData, keep: Callable[..., tuple[np.ndarray, ...]], seed: int) -> np.ndarray:
    """Cells of combinations cut 64/16/20, of which `keep` chooses; all other cells 80/20 without a test part."""
    combined = check_data(data, "A split").n_perturbations >= 2
    if not combined.any():
        raise DataError("No cell has two perturbations, so there are no combinations to hold out; use splits.random.")
    train, val, test = keep(*_cut_twice(np.flatnonzero(combined), 0.8, seed))
    other_train, other_val = _cut(np.flatnonzero(~combined), 0.8, seed)
    return _labelled(data, np.append(train, other_train), np.append(val, other_val), test)


def combinations(
    fraction: float, test: float = 0.25, names: Sequence[str] | np.ndarray | None = None, *, seed: int = 0
) -> Splitter:
    """Unseen combinations: most combinations are left out of training, and some of these are tested.

    Distinct combinations, as their names were written, are shuffled; the first ones train and validate, the last ones
    are tested on a fifth of their cells, and other cells of combinations are left out. Cells with at most one
    perturbation train (80%) or validate (20%).

    Parameters
    ----------
    fraction
        Share of combinations that train and validate.
    test
        Share of combinations that are tested. Where `fraction + test` is above 1, some are trained on too, as
        published.
    names
        (n,) names to list combinations by, for data published under other names: `obs["guide_identity"]` of
        `datasets.load("norman")`. None for the names as they were written.
    seed
        Of the shuffles.

    Raises
    ------
    ValueError
        For shares outside [0, 1]; the splitter raises DataError for data without combinations, parts of fewer than two
        cells, and names that are not one a cell.

    References
    ----------
    The out-of-distribution task on the data of Norman et al. in Bereket and Karaletsos 2023 (SAMS-VAE).
    """
    share(fraction=fraction, test=test)

    def split(data: PerturbationData) -> np.ndarray:
        check_data(data, "A split")
        written = data.raw_labels if names is None else in_order(names, data.cells, "cells").astype(object)
        if written.shape != (len(data),):
            raise DataError(f"There are {len(written)} names for {len(data)} cells; give one a cell.")
        listed = np.array(sorted(set(written[data.n_perturbations >= 2])), dtype=object)
        np.random.default_rng(seed).shuffle(listed)
        known = np.isin(written, listed[: int(fraction * len(listed))])
        held = np.isin(written, listed[len(listed) - ceil(test * len(listed)) :])
        return _hold_out(data, lambda train, val, test: (train[known[train]], val[known[val]], test[held[test]]), seed)

    return split


def combination_cells(fraction: float, *, seed: int = 0) -> Splitter:
    """Few training cells of each combination; validation and test are the same at every fraction.

    Cells of combinations are cut 64/16/20; cells with at most one perturbation train (80%) or validate (20%).

    Parameters
    ----------
    fraction
        Share of the training cells of combinations that is kept.
    seed
        Of the shuffles.

    Raises
    ------
    ValueError
        For a fraction outside [0, 1]; the splitter raises as that of `combinations` does.

    References
    ----------
    The data-efficiency task on the data of Norman et al. in Bereket and Karaletsos 2023 (SAMS-VAE).
    """
    share(fraction=fraction)

    return lambda data: _hold_out(data, lambda train, *rest: (train[: int(fraction * len(train))], *rest), seed)
