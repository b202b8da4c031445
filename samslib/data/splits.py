"""Which cells train, validate and test: the splits of the published experiments, cell for cell.

Each function returns a splitter for `PerturbationData.split`: a function of data that gives "train", "val", "test" or
"" (left out) for each cell. The random streams are those of the published code (scikit-learn's `train_test_split` over
cell positions, NumPy's `default_rng` over names), so that a table in the same order is split the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from samslib.data.container import PerturbationData, check_data
from samslib.data.selection import check_split, in_order
from samslib.validation import DataError, above, share

Splitter = Callable[[PerturbationData], np.ndarray]


def _cut(positions: np.ndarray, seed: int, **size: float) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's shuffled cut in two, for at least two cells."""
    from sklearn.model_selection import train_test_split

    if len(positions) < 2:
        raise DataError(f"{len(positions)} cell(s) cannot be split in two; a split needs more cells of each kind.")
    first, second = train_test_split(positions, random_state=seed, **size)
    return first, second


def _assign(cells: int, **parts: np.ndarray) -> np.ndarray:
    part = np.full(cells, "", dtype="<U5")
    for name, positions in parts.items():
        part[positions] = name
    return check_split(part, cells)


def random(seed: int = 0, train: float = 0.8) -> Splitter:
    """Cells at random: by default 64% train, 16% validate and 20% test.

    Parameters
    ----------
    seed
        Of the shuffle.
    train
        Share of the cells that are not for testing, and the share of these that train; above 0 and below 1.

    References
    ----------
    The split of the Replogle experiments in Bereket and Karaletsos 2023 (SAMS-VAE).
    """
    above(0, 1, train=train)

    def split(data: PerturbationData) -> np.ndarray:
        rest, test = _cut(np.arange(len(check_data(data, "A split"))), seed, train_size=train)
        fit, val = _cut(rest, seed, train_size=train)
        return _assign(len(data), train=fit, val=val, test=test)

    return split


def _by_perturbations(data: PerturbationData, seed: int) -> dict[str, np.ndarray]:
    """Cells of combinations cut 64/16/20, all other cells 80/20 without a test part."""
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
    """Unseen combinations: most combinations are left out of training, and some of these are tested.

    Distinct combinations, as their names were written, are shuffled; the first ones train and validate, the last ones
    are tested on a fifth of their cells, and other cells of combinations are left out. Cells with at most one
    perturbation train (80%) or validate (20%).

    Parameters
    ----------
    fraction
        Share of combinations that train and validate.
    seed
        Of the shuffles.
    test
        Share of combinations that are tested. Where `fraction + test` is above 1, some are trained on too, as
        published.
    names
        (n,) names to list combinations by, for data published under other names: `obs["guide_identity"]` of
        `datasets.load("norman")`. None for the names as they were written.

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
        cells = _by_perturbations(data, seed)
        written = data.raw_labels if names is None else in_order(names, data.cells, "cells").astype(object)
        if written.shape != (len(data),):
            raise DataError(f"There are {len(written)} names for {len(data)} cells; give one a cell.")
        listed = np.array(sorted(set(written[data.n_perturbations >= 2])), dtype=object)
        np.random.default_rng(seed).shuffle(listed)
        known = listed[: int(fraction * len(listed))]
        held = listed[len(listed) - ceil(test * len(listed)) :]

        def only(part: str, wanted: np.ndarray) -> np.ndarray:
            return cells[part][np.isin(written[cells[part]], wanted)]

        return _assign(
            len(data),
            train=np.concatenate([cells["other_train"], only("train", known)]),
            val=np.concatenate([cells["other_val"], only("val", known)]),
            test=only("test", held),
        )

    return split


def combination_cells(fraction: float, seed: int = 0) -> Splitter:
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

    def split(data: PerturbationData) -> np.ndarray:
        cells = _by_perturbations(data, seed)
        kept = cells["train"][: int(fraction * len(cells["train"]))]
        return _assign(
            len(data),
            train=np.concatenate([cells["other_train"], kept]),
            val=np.concatenate([cells["other_val"], cells["val"]]),
            test=cells["test"],
        )

    return split
