"""What a trained model has learned about perturbations: masks, effects, and their agreement with a known truth."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment

from samslib.effects import evaluating
from samslib.model import Model
from samslib.trace import Trace


def shared_latents(model: Model, particles: int = 100, seed: int = 0) -> anndata.AnnData:
    """Posterior means of what perturbations do in latent space: AnnData, perturbations x latent axes.

    X is E[M * E] (E[E] for a model without masks); layers "M" (mask probability) and "E" (mean of q(E | M) averaged
    over masks), as far as the model has them. Where each cell draws its own mask, its probability stands for M.
    Raises ValueError for a model that shares no latents between cells.
    """
    with evaluating(model, seed):
        t = Trace(particles)
        model.infer_shared(t)
        sites = {"M": t.sites.get("M", t.sites.get("pi")), "E": t.sites.get("E")}
        found = {name: site for name, site in sites.items() if site}
        if not found:
            raise ValueError(f"{type(model).__name__} shares no latents between cells; use average_effects.")
        layers = {n: site.distribution.mean.expand(site.value.shape).mean(0) for n, site in found.items()}
        product = torch.stack([site.value for site in found.values()]).prod(0).mean(0)
    axes = pd.Index([f"axis_{k}" for k in range(product.shape[1])], name="axis")
    return anndata.AnnData(
        product.cpu().numpy(),
        obs=pd.DataFrame(index=pd.Index(model.summary.perturbations, name="perturbation")),
        var=pd.DataFrame(index=axes),
        layers={name: value.cpu().numpy() for name, value in layers.items()},
    )


def mask_recovery(truth: np.ndarray, inferred: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of a (T, K') mask against the true (T, K) one.

    Latent axes have no order, so they are matched one to one to maximise the number of entries that are on in both
    (optimal assignment). An inferred entry is on above one half.
    """
    true, found = np.asarray(truth) != 0, np.asarray(inferred) > 0.5
    both = true.T.astype(float) @ found
    rows, columns = linear_sum_assignment(-both)
    hits = both[rows, columns].sum()
    return {
        "precision": hits / max(found.sum(), 1),
        "recall": hits / max(true.sum(), 1),
        "f1": 2 * hits / max(found.sum() + true.sum(), 1),
    }


def effect_recovery(truth: np.ndarray, inferred: np.ndarray) -> float:
    """Mean absolute correlation between matched columns of the true (T, K) and inferred (T, K') latent effects.

    Axes are matched one to one to maximise it, because neither their order nor their sign is identified; a true axis
    that no perturbation moves is left out.
    """
    true, found = (np.asarray(a, dtype=float) for a in (truth, inferred))
    true = true[:, true.std(0) > 0]
    centred = [(a - a.mean(0)) / np.where(a.std(0) > 0, a.std(0), np.inf) for a in (true, found)]
    correlation = np.abs(centred[0].T @ centred[1]) / len(true)
    rows, columns = linear_sum_assignment(-correlation)
    return float(correlation[rows, columns].sum() / max(true.shape[1], 1))
