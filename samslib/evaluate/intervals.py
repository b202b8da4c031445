"""Effects of an ensemble, and intervals that are calibrated on validation cells."""

from __future__ import annotations

from collections.abc import Sequence

import anndata
import numpy as np

from samslib.validation import require


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
    require(len(members), "members is empty; give a table of effects for each model.")
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
