"""Named data sets: two small simulated ones that come with the repository, and real cells fetched by
checksum.

`python -m samslib.datasets regenerate` writes the simulated ones again, byte for byte with the pinned
versions.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from samslib import simulate
from samslib.data import DataError, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData

COMMIT = "d357dfae3b50968e800e9f5f273ff145080ae67c"
ADDRESS = f"https://raw.githubusercontent.com/altoslabs/perturbench/{COMMIT}/src/perturbench/data/resources/devel.h5ad"
SHA256 = "220998f5630c813228c8661c86dd52244b9ac87127511289af90e0d900d8429b"
REGENERATE = "python -m samslib.datasets regenerate"


class DatasetError(DataError):
    """A data set cannot be had; the message says which file is missing or wrong and what to do."""


@dataclass(frozen=True)
class Dataset:
    """What is known of a set before it is read; `make` draws a simulated one."""

    file: str
    cells: int
    genes: int
    perturbations: int
    conditions: int
    control: str | None
    values: str
    origin: str
    licence: str
    make: Callable[[], AnnData] | None = None


def _simulation() -> AnnData:
    """The published simulation with fewer perturbations and cells, in steps of 1/256 so that it packs
    small."""
    adata = simulate.sams_vae_simulation(perturbations=30, cells=(60, 20, 20), seed=0)
    adata.X, adata.layers["mean"] = (np.round(256 * values) / 256 for values in (adata.X, adata.layers["mean"]))
    return adata


DATASETS = {
    "sams-sim": Dataset(
        "sams-sim.h5ad",
        3000,
        100,
        30,
        30,
        None,
        "real",
        "simulated: sams_vae_simulation, small",
        "CC0-1.0",
        _simulation,
    ),
    "sams-pairs": Dataset(
        "sams-pairs.h5ad",
        3075,
        150,
        20,
        36,
        "control",
        "counts",
        "simulated: perturb_seq",
        "CC0-1.0",
        simulate.perturb_seq,
    ),
    "norman-devel": Dataset(
        "perturbench-devel.h5ad",
        3375,
        500,
        31,
        34,
        "control",
        "counts",
        "Norman et al. 2019, by PerturBench",
        "BSD-3-Clause",
    ),
}


def describe() -> pd.DataFrame:
    """One row a data set: size, control label, kind of values, origin, licence, file, and whether that is
    here now."""
    rows = {
        name: {k: v for k, v in vars(known).items() if k != "make"} | {"here": _place(known).is_file()}
        for name, known in DATASETS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def load(name: str, path: str | Path | None = None) -> AnnData:
    """A data set as an AnnData with names in `obs["perturbation"]`, control label "control", separator "+".

    "sams-sim": the published simulation, small edition (real values, no controls;
    `PerturbationData.from_anndata` with control=None, counts=False). "sams-pairs": simulated counts of single
    and paired perturbations. Both keep the truth in `uns["truth"]`, `obsm["z_basal"]` and `obsm["z"]`; they
    are read from the repository's `data/`, or from the folder in the environment variable SAMSLIB_DATA.
    "norman-devel": 3,375 real cells, fetched once and checked; the cache is the folder in SAMSLIB_CACHE, else
    the platform's. `path` is a file to read in their stead (norman-devel: checked too).

    Raises DatasetError (a ValueError) for an unknown name and for files that are missing, damaged or not to
    be had.
    """
    if name not in DATASETS:
        hint = did_you_mean(str(name), list(DATASETS)) or "."
        raise DatasetError(f"There is no data set {name!r}{hint} Known: {', '.join(DATASETS)}.")
    known = DATASETS[name]
    place = _place(known) if path is None else Path(path).expanduser()
    if known.make is not None:
        if not place.is_file():
            remedy = f"run `{REGENERATE}` in the repository, or set SAMSLIB_DATA to the folder that holds it"
            raise DatasetError(f"The data set {name!r} has no file {place}; {remedy}.")
        return _read(place, f"run `{REGENERATE}` to write it again")
    if path is None:
        _fetch(place)
    elif not place.is_file():
        raise DatasetError(f"There is no file {place}; the file of {name!r} is had from {ADDRESS}.")
    elif _sha256(place) != SHA256:
        raise DatasetError(f"{place} is not the file of {name!r}: its sha256 is not {SHA256}; get it from {ADDRESS}.")
    return _norman(_read(place, "delete it and load again"))


def _place(known: Dataset) -> Path:
    """Where the file of a data set belongs."""
    if known.make is not None:
        folder = os.environ.get("SAMSLIB_DATA") or Path(__file__).resolve().parent.parent / "data"
    elif not (folder := os.environ.get("SAMSLIB_CACHE", "")):
        import pooch

        folder = pooch.os_cache("samslib")
    return Path(folder).expanduser() / known.file


def sha256(name: str) -> str:
    """Checksum of a data set's file as it lies here, for the provenance of results."""
    load(name)
    return _sha256(_place(DATASETS[name]))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path, remedy: str) -> AnnData:
    import anndata

    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # a damaged HDF5 file fails in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(f"{path} cannot be read ({reason}); {remedy}.") from error


def _fetch(place: Path) -> None:
    """Bring the PerturBench file into the cache, unless it is there unharmed; pooch moves it there only when
    checked."""
    import pooch

    by_hand = f"put the file from {ADDRESS} at {place}"
    try:
        if place.is_file() and _sha256(place) == SHA256:
            return
        downloader = pooch.HTTPDownloader(timeout=30)
        pooch.retrieve(ADDRESS, f"sha256:{SHA256}", fname=place.name, path=place.parent, downloader=downloader)
    except ValueError as error:  # pooch's word for another checksum; it has removed the download
        raise DatasetError(f"What {ADDRESS} gave has not the sha256 {SHA256} and was not kept; {by_hand}.") from error
    except OSError as error:
        if error.errno is not None or isinstance(
            error, PermissionError
        ):  # of the disk: errors of the network have none
            reason = error.strerror or str(error).splitlines()[0]
            remedy = "free or unlock it, or set SAMSLIB_CACHE to another folder"
            raise DatasetError(f"The cache folder {place.parent} cannot be used ({reason}); {remedy}.") from error
        damaged = " (the file that is there is damaged)" if place.exists() else ""
        raise DatasetError(
            f"norman-devel could not be fetched{damaged}; with a network again, or {by_hand}."
        ) from error


def _norman(adata: AnnData) -> AnnData:
    """The Norman cells with their counts.

    X is log(1 + 1e4 count / ncounts') with a denominator ncounts' of its own in each cell, so all values of a
    cell are whole multiples of one quantum: its smallest value is one count (two in two cells, which
    `ncounts` tells apart).
    """
    adata = adata[adata.obs["dataset"] == "norman19"].copy()
    scaled = sp.csr_matrix(adata.X, dtype=np.float64)
    scaled.data = np.expm1(scaled.data)
    smallest = np.minimum.reduceat(scaled.data, scaled.indptr[:-1])
    quantum = smallest / np.rint(smallest * adata.obs["ncounts"].to_numpy() / 1e4)
    exact = scaled.data / np.repeat(quantum, np.diff(scaled.indptr))
    counts = np.rint(exact)
    if not np.abs(exact - counts).max() < 1e-6:
        raise DatasetError(
            "The counts of norman-devel are not whole numbers; the file is not the one that was checked."
        )
    adata.X = sp.csr_matrix((counts.astype(np.float32), scaled.indices, scaled.indptr), shape=scaled.shape)
    adata.obs["perturbation"] = pd.Categorical(adata.obs["perturbation"].astype(str))
    adata.uns = {"source": {"address": ADDRESS, "sha256": SHA256, "licence": "BSD-3-Clause", "cells": "norman19"}}
    return adata


def regenerate(folder: str | Path | None = None) -> dict[str, Path]:
    """Draw the bundled sets again into `folder` (default: where `load` reads them); returns the file of each
    name.

    A file is replaced only once it is complete. Raises DatasetError if the folder cannot be written.
    """
    written: dict[str, Path] = {}
    for name, known in DATASETS.items():
        if known.make is None:
            continue
        place = _place(known) if folder is None else Path(folder).expanduser() / known.file
        part = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            known.make().write_h5ad(part, compression="gzip", compression_opts=9)
            os.replace(part, place)
        except OSError as error:
            raise DatasetError(f"{place} cannot be written ({error}); give another folder.") from error
        finally:
            part.unlink(missing_ok=True)
        written[name] = place
    return written


def _main(words: list[str]) -> Any:
    if words[:1] != ["regenerate"] or len(words) > 2:
        return f"usage: {REGENERATE} [folder]"
    for place in regenerate(*words[1:]).values():
        print(f"{_sha256(place)}  {place}")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
