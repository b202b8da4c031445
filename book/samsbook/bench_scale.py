"""Training on a million cells that stay on disk: peak memory, step time beside that in memory, and how well the cells
are shuffled (`make bench-scale`).

A file of simulated counts is written block by block into a temporary folder, its cells sorted by perturbation, which is
the hardest order for a shuffle that reads neighbours together. Each part then runs in a process of its own, so that its
peak is its own. The process that trains also splits, summarises and validates, as a user would.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# samslib, torch and anndata are imported in the parts: on Linux a new process starts with the peak of its parent.

BLOCK = 20_000
SIZES = {  # name: latent axes, width, particles
    "the paper's": (100, 400, 5),
    "small": (10, 64, 1),
}


def write(path: Path, cells: int, genes: int, density: float, perturbations: int) -> None:
    """Write simulated sparse counts, as float32 with int32 indices, without compression, appended by blocks.

    Parameters
    ----------
    path
        Where to write, an h5ad file. Its cells are sorted by perturbation, the controls (one in 20) first.
    cells, genes
        Numbers of rows and columns.
    density
        Share of the entries that are not zero.
    perturbations
        Number of perturbations besides control.
    """
    import anndata as ad
    import h5py
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    rng = np.random.default_rng(0)

    def block(size: int) -> sp.csr_matrix:
        there = rng.random((size, genes), dtype=np.float32) < density
        values = 1 + rng.poisson(1, np.count_nonzero(there)).astype(np.float32)
        indices = (np.flatnonzero(there) % genes).astype(np.int32)
        return sp.csr_matrix((values, indices, np.r_[0, there.sum(1).cumsum()].astype(np.int32)), there.shape)

    controls = cells // 20
    kind = np.r_[np.zeros(controls, int), 1 + np.arange(cells - controls) * perturbations // (cells - controls)]
    names = np.array(["control", *(f"P{i}" for i in range(perturbations))])
    index = pd.Index([f"cell{i}" for i in range(cells)])
    obs = pd.DataFrame({"perturbation": pd.Categorical.from_codes(kind, names)}, index=index)
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name, part in (("obs", obs), ("var", pd.DataFrame(index=[f"gene{i}" for i in range(genes)]))):
            ad.io.write_elem(file, name, part)
        ad.io.write_elem(file, "X", block(min(BLOCK, cells)))
        X = ad.io.sparse_dataset(file["X"])
        for start in range(BLOCK, cells, BLOCK):
            X.append(block(min(BLOCK, cells - start)))
    with path.open("rb") as written:
        os.fsync(written.fileno())


def peak() -> float:
    """The largest resident set of this process so far.

    Returns
    -------
    float
        GB.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def forget(path: Path) -> None:
    """Drop a file from the page cache, so that it is read from the disk.

    Parameters
    ----------
    path
        The file.
    """
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train(path: Path, steps: int) -> None:
    """What a user runs, with time and memory printed after each part.

    Parameters
    ----------
    path
        The file of simulated cells, of `write`.
    steps
        Number of training steps.
    """
    start = time.perf_counter()

    import anndata as ad
    import torch

    import samslib

    def say(what: str) -> None:
        print(f"{what:<44}{time.perf_counter() - start:>8.0f} s{peak():>8.2f} GB", flush=True)

    say("imported")
    data = samslib.PerturbationData.from_anndata(ad.read_h5ad(path, backed="r"))
    say(f"read and checked, {len(data):,} x {len(data.genes):,}")
    parts = data.split(samslib.splits.random(seed=0))
    summary = data.summary(parts[0])
    say(f"summary of {len(parts[0]):,} training cells")
    latent, width, particles = SIZES["the paper's"]
    torch.manual_seed(1)
    model = samslib.SAMSVAE.paper(summary, latent=latent, encoder_width=width, decoder_width=width)
    config = samslib.FitConfig.paper(
        steps=steps, particles=particles, validate_every=steps, progress=False, device="cpu"
    )
    samslib.fit(model, parts[0], parts[1], config)
    say(f"{steps} steps and validation on {len(parts[1]):,} cells")


def compare(path: Path, subset: int) -> None:
    """Time steps on the file and on a part of it in memory, which take turns, and print both.

    There are as many steps as one window of the file has batches.

    Parameters
    ----------
    path
        The file of simulated cells, of `write`.
    subset
        About how many cells to hold in memory.
    """
    import anndata as ad
    import torch

    import samslib
    from samslib.data.batches import Batches
    from samslib.training import TrainingStep, shared_counts

    disk = samslib.PerturbationData.from_anndata(ad.read_h5ad(path, backed="r"))
    disk = disk.split(samslib.splits.random(seed=0))[0]
    memory = disk[:: max(1, len(disk) // subset)].to_memory()
    summary = disk.summary(memory)
    print(f"{'model':<14}{'in memory s':>12}{'on disk s':>12}{'ratio':>8}{'a window cold':>16}{'warm s':>8}")
    for name, (latent, width, particles) in SIZES.items():
        torch.manual_seed(1)
        model = samslib.SAMSVAE.paper(summary, latent=latent, encoder_width=width, decoder_width=width)
        counts = shared_counts(memory, torch.device("cpu"), torch.float32)
        train = TrainingStep(model, samslib.FitConfig.paper(particles=particles), counts)
        sources = {kind: Batches(part, 512, 0) for kind, part in (("memory", memory), ("disk", disk))}
        steps = sources["disk"].order.window // 512
        took: dict[str, list[float]] = {kind: [] for kind in sources}
        forget(path)  # the window of these steps is read from the disk
        for step in range(steps + 1):
            for kind, batches in sources.items():
                start = time.perf_counter()
                train(batches(step, torch.float32))
                took[kind].append(time.perf_counter() - start)
        usual = statistics.median(took["memory"])
        # Means on both sides, for what a window costs falls on its first step; the last step opens a second window.
        mean = {kind: statistics.mean(times[:-1]) for kind, times in took.items()}
        cold, warm = took["disk"][0] - usual, took["disk"][-1] - usual
        print(f"{name:<14}{mean['memory']:>12.4f}{mean['disk']:>12.4f}{mean['disk'] / mean['memory']:>8.2f}"
              f"{cold:>16.2f}{warm:>8.2f}", flush=True)  # fmt: skip


def shuffle(path: Path) -> None:
    """Print how well cells are shuffled: all of them, in windows, and as they lie.

    What a batch of 512 holds is a mean over the first epoch; the spread is by how much a perturbation's share differs
    between windows (standard deviation over mean).

    Parameters
    ----------
    path
        The file of simulated cells, of `write`.
    """
    import anndata as ad
    import numpy as np

    import samslib
    from samslib.data.batches import STRETCH, Order

    data = samslib.PerturbationData.from_anndata(ad.read_h5ad(path, backed="r"))
    data = data.split(samslib.splits.random(seed=0))[0]
    kind = np.unique(data.labels.astype(str), return_inverse=True)[1]
    window = data.x.window()
    print(f"{len(data):,} cells sorted by perturbation, windows of {window:,} cells in stretches of {STRETCH}")
    print(f"{'order':<12}{'near pairs':>12}{'same label':>12}{'labels':>8}{'spread':>8}")
    for name, width in (("full", None), ("windows", window), ("file", 0)):
        order = Order(len(data), 512, 0, width)
        near, same, labels, seen = [], [], [], []
        for step in range(len(data) // 512):
            rows = order(step) if width != 0 else np.arange(512) + step * 512
            gaps = np.abs(rows[:, None] - rows)[np.triu_indices(512, 1)]
            near.append((gaps < STRETCH).mean())
            sizes = np.bincount(kind[rows])
            same.append((sizes * (sizes - 1)).sum() / (512 * 511))
            labels.append(np.count_nonzero(sizes))
            seen.append(np.bincount(kind[rows], minlength=kind.max() + 1))
        whole = len(seen) // (window // 512)
        shares = np.array(seen[: whole * (window // 512)]).reshape(whole, window // 512, -1).sum(1)
        spread = (shares.std(0, ddof=1) / shares.mean(0).clip(1)).mean() if whole > 1 else np.nan
        print(
            f"{name:<12}{np.mean(near):>12.6f}{np.mean(same):>12.5f}{np.mean(labels):>8.1f}{spread:>8.2f}", flush=True
        )


def main() -> None:
    """Read the command line and run each part in a process of its own, or the one part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--perturbations", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=200, help="training steps of the process whose peak is taken")
    parser.add_argument("--subset", type=int, default=100_000, help="cells in memory for the comparison")
    parser.add_argument("--folder", help="where the file is written and deleted (default: the temporary folder)")
    parser.add_argument("--part", choices=["write", "train", "compare", "shuffle"], help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        shape = (options.cells, options.genes, options.density, options.perturbations)
        extra = {"write": shape, "train": (options.steps,), "compare": (options.subset,), "shuffle": ()}
        globals()[options.part](options.path, *extra[options.part])
        return
    needed = options.cells * options.genes * options.density * 8 * 1.1
    folder = tempfile.mkdtemp(prefix="samslib-scale-", dir=options.folder)
    try:
        if shutil.disk_usage(folder).free < needed:
            sys.exit(f"{folder} has too little room for {needed / 1e9:.1f} GB; name another with --folder.")
        path = Path(folder) / "cells.h5ad"
        for part in ("write", "train", "compare", "shuffle"):
            print(f"\n{part}", flush=True)
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--part", part, "--path", str(path)], check=True)
            if part == "write":
                print(f"{path.stat().st_size / 1e9:.2f} GB on disk")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
