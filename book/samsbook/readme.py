"""The README's picture: what perturbations do to a cell, as it is and as SAMS-VAE finds it.

python -m samsbook.readme    trains chapter 2's model (under a minute) and writes book/assets/readme.png
"""

from __future__ import annotations

import matplotlib
import pandas as pd

import samslib
from samsbook.results import root
from samslib import plotting
from samslib.evaluate import recovery

SIZES = {"latent": 15, "encoder_width": 64, "decoder_width": 64, "embedding_layers": 1, "embedding_width": 64}
CONFIG = {"steps": 800, "batch_size": 128, "learning_rate": 0.01, "clip": 10.0, "particles": 2, "seed": 0}


def main() -> None:
    """Train, match the axes of the inferred effects to the true ones, draw both on one scale."""
    adata = samslib.datasets.load("sams-pairs")
    data = samslib.PerturbationData.from_anndata(adata)
    train, val, _ = data.split(samslib.splits.random(seed=0))
    model = samslib.SAMSVAE.paper(train.summary(), mask_prior=0.1, seed=0, **SIZES)
    samslib.fit(model, train, val, samslib.FitConfig.paper(validate_every=40, progress=False, **CONFIG))
    truth, found = adata.uns["truth"], recovery.shared_latents(model)
    true = pd.DataFrame(truth["M"] * truth["E"], index=truth["perturbations"])
    matched = recovery.match_axes(true, found.to_df().loc[true.index])
    frames = {"truth": true, "inferred": pd.DataFrame(matched, index=true.index)}
    plotting.use_style()
    for ax in plotting.matrices(frames, "latent shift M ⊙ E", centre=0):
        ax.set(xlabel="latent axis", ylabel="")
    matplotlib.pyplot.savefig(root() / "book" / "assets" / "readme.png", facecolor="white", dpi=160)


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
