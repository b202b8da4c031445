"""Named data sets: two small simulated ones that come with the repository, and public screens of real cells, fetched
when first asked for, checked and kept.

`python -m samslib.datasets regenerate` writes the simulated ones again, byte for byte with the pinned
versions.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pooch
from anndata import AnnData, read_h5ad

from samslib.data.messages import did_you_mean
from samslib.datasets.readers import DatasetError
from samslib.datasets.registry import DATASETS, Dataset, File
from samslib.datasets.registry import SOURCES as SOURCES
from samslib.progress import download_bar
from samslib.validation import require

LOG = logging.getLogger("samslib")

REGENERATE = "python -m samslib.datasets regenerate"


def describe() -> pd.DataFrame:
    """One row a data set.

    Returns
    -------
    Its size as `load` gives it (missing where nobody states it), control label, kind of values, arguments for
    `PerturbationData.from_anndata` beside its defaults, published split, origin, licence, file, about how many
    gigabytes, address, and whether the file is here now.
    """
    table = pd.DataFrame(map(vars, DATASETS.values()), index=pd.Index(DATASETS, name="name"))
    table["gigabytes"] = [sum(file.gigabytes for file in files) or None for files in table["files"]]
    table["address"] = [files[0].address if files else None for files in table["files"]]
    table["here"] = [_here(known).is_file() for known in DATASETS.values()]
    sizes = dict.fromkeys(("cells", "genes", "perturbations", "conditions"), "Int64")
    return table.astype(sizes).drop(columns=["alternatives", "files", "kept", "read"])


def load(name: str, path: str | Path | None = None) -> AnnData:
    """A data set as an AnnData with names in `obs["perturbation"]`, control label "control", counts in X.

    `PerturbationData.from_anndata(adata, **DATASETS[name].arguments)` reads it. "sams-sim" (the published simulation,
    smaller: real values, no controls) and "sams-pairs" (simulated counts of single and paired perturbations) keep the
    truth in `uns["truth"]`, `obsm["z_basal"]` and `obsm["z"]`. They are read from the repository's `data/`, or from the
    folder in the environment variable SAMSLIB_DATA; without a repository they are drawn once and kept in the cache. All
    others are real cells: the file is fetched once, checked, and kept in the folder in SAMSLIB_CACHE, else the
    platform's; `uns["source"]` says where it is from.

    Parameters
    ----------
    name
        Of a row of `describe()`.
    path
        A file of yours to read instead, of the same schema. It is checked too, but where no sha256 is published it may
        hold other cells. None for the published file.

    Raises
    ------
    DatasetError
        For an unknown name, and for files that are missing, damaged or cannot be fetched.
    """
    hint = did_you_mean(str(name), list(DATASETS)) or "."
    require(name in DATASETS, f"There is no data set {name!r}{hint} Known: {', '.join(DATASETS)}.", DatasetError)
    known = DATASETS[name]
    own = None if path is None else Path(path).expanduser()
    place = own or _here(known)
    if not known.files:
        if place.parent == _cache() and not place.is_file():
            _draw(known, place)
        remedy = f"run `{REGENERATE}` in the repository, or set SAMSLIB_DATA to the folder that holds it"
        require(place.is_file(), f"The data set {name!r} has no file {place}; {remedy}.", DatasetError)
        return _read(read_h5ad, place, remedy=f"run `{REGENERATE}` to write it again")
    if place == _cache() / known.kept:
        return _read(read_h5ad, place, remedy="delete it and load again")
    return _from_files(name, known, own)


def sha256(name: str) -> str:
    """Checksum of the file of the data set `name` as it lies here, for the provenance of results."""
    load(name)
    return pooch.file_hash(_here(DATASETS[name]))


def regenerate(folder: str | Path | None = None) -> dict[str, Path]:
    """Draw the simulated sets again; a file is replaced only once it is complete.

    Parameters
    ----------
    folder
        Where to write; None for where `load` reads them.

    Returns
    -------
    The file of each name.

    Raises
    ------
    DatasetError
        If the folder cannot be written.
    """
    written = {}
    for name, known in DATASETS.items():
        if not known.files:
            written[name] = _place(known) if folder is None else Path(folder).expanduser() / known.file
            _draw(known, written[name])
    return written


def _draw(known: Dataset, place: Path) -> None:
    """Simulate a data set into a file."""
    adata = known.read()
    if known.values == "real":  # steps of 1/256 pack well
        adata.X, adata.layers["mean"] = (np.round(256 * x) / 256 for x in (adata.X, adata.layers["mean"]))
    _write(adata, place, compression="gzip", compression_opts=9)


def _from_files(name: str, known: Dataset, own: Path | None) -> AnnData:
    """Real cells from the published file or one's own, and what else their reader needs, which is fetched."""
    first, *more = known.files
    home = f"the file of {name!r} is had from {first.address}"
    place = _own(name, first, own) if own else _fetch(name, known, first)
    others = [_fetch(name, known, file) for file in more]
    adata = _read(known.read, place, *others, remedy=home if own else f"delete it and load again; {home}")
    source = {"address": first.address, "sha256": first.sha256, "licence": known.licence, "origin": known.origin}
    adata.uns["source"] = {key: value for key, value in source.items() if value}
    if known.kept and adata.shape == (known.cells, known.genes):
        _write(adata, _cache() / known.kept)
    return adata


def _cache() -> Path:
    return Path(os.environ.get("SAMSLIB_CACHE") or pooch.os_cache("samslib")).expanduser()


def _place(known: Dataset) -> Path:
    """Where the file of a data set belongs."""
    repository = Path(__file__).resolve().parents[2]
    here = repository / "data" if (repository / "pyproject.toml").is_file() else _cache()  # installed from a wheel
    bundled = Path(os.environ.get("SAMSLIB_DATA") or here).expanduser()
    return (_cache() if known.files else bundled) / known.file


def _here(known: Dataset) -> Path:
    """The file that `load` would read: what a long reading left, or the published file."""
    kept = _cache() / known.kept
    return kept if known.kept and kept.is_file() else _place(known)


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read(read: Callable[..., AnnData], place: Path, *others: Path, remedy: str) -> AnnData:
    try:
        return read(place, *others)
    except Exception as error:  # a damaged HDF5 file fails in many ways
        what = error if isinstance(error, DatasetError) else f"cannot be read ({_reason(error)})"
        raise DatasetError(f"{place} {what}; {remedy}.") from error


def _write(adata: AnnData, place: Path, **options: Any) -> None:
    """Write a file that is there only once it is complete."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=place.parent) as folder:
            part = Path(folder) / place.name
            adata.write_h5ad(part, **options)
            part.replace(place)
    except OSError as error:
        raise DatasetError(f"{place} cannot be written ({error}); give another folder.") from error


def _own(name: str, file: File, path: Path) -> Path:
    """A file of the user's, which is of the published schema, and of the published size or said not to be."""
    require(path.is_file(), f"There is no file {path}; the file of {name!r} is had from {file.address}.", DatasetError)
    if problem := file.problem(path, own=True):
        raise DatasetError(f"{path} is not the file of {name!r}: it {problem}; get it from {file.address}.")
    if problem := file.problem(path):
        LOG.warning("%s %s; it is read all the same", path, problem)
    return path


def _fetch(name: str, known: Dataset, file: File) -> Path:
    """Where a file lies in the cache, brought there unless it is unharmed; it gets its name once whole and checked.

    A damaged file in the cache is fetched again if its sha256 is known; else it may be half of a download by hand, and
    is left alone.
    """
    place = _cache() / file.name
    resume = f"`curl -L -C - -o {shlex.quote(str(place))} {shlex.quote(file.address)}`"
    ways = [*file.others, *(f"load({other!r})" for other in known.alternatives), f"load({name!r}, path=...)"]
    by_hand = f"by hand, resumed where it broke off: {resume}; other ways: {', '.join(ways)}"
    problem = ""
    try:
        if place.is_file() and not (problem := file.problem(place)):
            return place
        if problem and not file.sha256:
            raise DatasetError(f"{place} {problem}; delete it and load again, or go on {by_hand}.")
        place.parent.mkdir(parents=True, exist_ok=True)
        _check_room(file, place.parent)
        download = partial(_download, file, by_hand)
        pooch.retrieve(file.address, file.sha256 or None, place.name, place.parent, downloader=download)
        return place
    except OSError as error:
        if error.errno is not None or isinstance(error, PermissionError):  # of the disk: the network's have none
            reason = error.strerror or _reason(error)
            remedy = "free or unlock it, or set SAMSLIB_CACHE to another folder"
            raise DatasetError(f"The cache folder {place.parent} cannot be used ({reason}); {remedy}.") from error
        status = getattr(getattr(error, "response", None), "status_code", "")
        reason = f"{type(error).__name__} {status}".strip()
        damaged = " (the file that is there is damaged)" if problem else ""
        what = f"{name} could not be fetched{damaged} from {file.address} ({reason})"
        raise DatasetError(f"{what}; try again, or {by_hand}.") from error


def _check_room(file: File, folder: Path) -> None:
    free = shutil.disk_usage(folder).free / 1e9
    need = f"{file.gigabytes:g} GB are needed and {free:.1f} GB are free; set SAMSLIB_CACHE"
    require(free >= file.gigabytes, f"The cache folder {folder} has no room for {file.name}: {need}.", DatasetError)


def _download(file: File, by_hand: str, address: str, to: str, _: Any) -> None:
    """For pooch: stream to its temporary file with a bar, and refuse there what is not the published file."""
    with download_bar(file.name) as bar:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=2**20, timeout=30)(address, to, None)
    if problem := file.problem(Path(to)):
        raise DatasetError(f"What {address} gave {problem} and was not kept; {by_hand}.")
