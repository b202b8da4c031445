"""Scores of a model on cells, as DataFrames."""

from __future__ import annotations

import numpy as np
import pandas as pd

from samslib.data import PerturbationData
from samslib.effects import cell_blocks, evaluating
from samslib.model import Model
from samslib.objective import iwelbo, log_weights
from samslib.trace import Trace


def held_out_iwelbo(model: Model, data: PerturbationData, particles: int = 100, seed: int = 0) -> pd.DataFrame:
    """Importance-weighted bound on log p(x) of every cell, shared latents taken from the posterior and not charged.

    One set of `particles` draws of the shared latents serves all cells, as published. Returns one row a cell, indexed
    by its name: "perturbation", "iwelbo" in nats (natural logarithm, summed over genes). Numbers with different
    `particles` do not compare: the bound rises with them.
    """
    scores = np.empty(len(data))
    with evaluating(model, seed) as like:
        shared = Trace(particles)
        model.infer_shared(shared)
        for rows in cell_blocks(data, particles):
            b = data.batch(rows, dtype=like.dtype).to(like.device)
            q = Trace(particles, given=shared.values)
            model.infer_cells(q, b)
            scores[rows] = iwelbo(log_weights(model, b, q)).double().cpu().numpy()
    return pd.DataFrame(
        {"perturbation": np.asarray(data.labels), "iwelbo": scores}, index=pd.Index(data.cells, name="cell")
    )
