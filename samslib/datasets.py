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
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from samslib import simulate
from samslib.data import did_you_mean
from samslib.progress import download_bar
from samslib.readers import DatasetError
from samslib.sources import SOURCES, Dataset, File
from samslib.sources import sha256 as _sha256

if TYPE_CHECKING:
    from anndata import AnnData

LOG = logging.getLogger("samslib")
REGENERATE = "python -m samslib.datasets regenerate"


def _simulation() -> AnnData:
    """The published simulation with fewer perturbations and cells, in steps of 1/256 so that it packs
    small."""
    adata = simulate.sams_vae_simulation(perturbations=30, cells=(60, 20, 20), seed=0)
    adata.X, adata.layers["mean"] = (np.round(256 * values) / 256 for values in (adata.X, adata.layers["mean"]))
    return adata


DATASETS = {
    "sams-sim": Dataset(
        "sams-sim.h5ad",
        "simulated: sams_vae_simulation, small",
        "CC0-1.0",
        *(3000, 100, 30, 30),
        control=None,
        values="real",
        arguments={"control": None, "counts": False},
        make=_simulation,
    ),
    "sams-pairs": Dataset(
        "sams-pairs.h5ad",
        "simulated: perturb_seq",
        "CC0-1.0",
        *(3075, 150, 20, 36),
        make=simulate.perturb_seq,
    ),
    **SOURCES,
}


def describe() -> pd.DataFrame:
    """One row a data set: size as `load` gives it (missing where nobody states it), control label, kind of values,
    arguments for `PerturbationData.from_anndata` beside its defaults, published split, origin, licence, file, about how
    many gigabytes, address, and whether the file is here now."""
    shown = ("cells", "genes", "perturbations", "conditions", "control", "values", "arguments", "split", "origin")
    rows = {
        name: {key: getattr(known, key) for key in (*shown, "licence", "file")}
        | {"gigabytes": sum(file.gigabytes for file in known.files) or None}
        | {"address": known.files[0].address if known.files else None, "here": _here(known).is_file()}
        for name, known in DATASETS.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
    return table.astype(dict.fromkeys(("cells", "genes", "perturbations", "conditions"), "Int64"))


def load(name: str, path: str | Path | None = None) -> AnnData:
    """A data set as an AnnData with names in `obs["perturbation"]`, control label "control", counts in X.

    `PerturbationData.from_anndata(adata, **DATASETS[name].arguments)` reads it. "sams-sim" (the published simulation,
    small edition: real values, no controls) and "sams-pairs" (simulated counts of single and paired perturbations)
    keep the truth in `uns["truth"]`, `obsm["z_basal"]` and `obsm["z"]`; they are read from the repository's `data/`,
    or from the folder in the environment variable SAMSLIB_DATA. All others are real cells (`describe()` lists them):
    the file is fetched once, checked, and kept in the folder in SAMSLIB_CACHE, else the platform's; `uns["source"]`
    says where it is from. `path` is a file of yours to read in its stead, of the same schema: it is checked too, but
    for one whose sha256 is not published it may hold other cells.

    Raises DatasetError (a ValueError) for an unknown name and for files that are missing, damaged or not to
    be had.
    """
    if name not in DATASETS:
        hint = did_you_mean(str(name), list(DATASETS)) or "."
        raise DatasetError(f"There is no data set {name!r}{hint} Known: {', '.join(DATASETS)}.")
    known = DATASETS[name]
    own = None if path is None else Path(path).expanduser()
    if known.make is not None:
        place = own or _place(known)
        if not place.is_file():
            remedy = f"run `{REGENERATE}` in the repository, or set SAMSLIB_DATA to the folder that holds it"
            raise DatasetError(f"The data set {name!r} has no file {place}; {remedy}.")
        return _read(place, f"run `{REGENERATE}` to write it again")
    kept = _cache() / known.kept
    if known.kept and own is None and kept.is_file():
        return _read(kept, "delete it and load again")
    return _from_files(name, known, own)


def _from_files(name: str, known: Dataset, own: Path | None) -> AnnData:
    """Real cells from the published file or one's own, and what else their reader needs, which is fetched."""
    assert known.read is not None
    first, *more = known.files
    if own is None:
        _fetch(name, known, first)
    else:
        _check_own(name, first, own)
    for file in more:
        _fetch(name, known, file)
    place = own or _cache() / first.name
    try:
        adata = known.read(place, *(_cache() / file.name for file in more))
    except DatasetError as error:
        raise DatasetError(f"{place} {error}; give a file of {name!r}, which is had from {first.address}.") from error
    except Exception as error:  # a damaged HDF5 file fails in many ways
        remedy = "delete it and load again" if own is None else f"the file of {name!r} is had from {first.address}"
        raise DatasetError(f"{place} cannot be read ({_reason(error)}); {remedy}.") from error
    source = {"address": first.address, "sha256": first.sha256, "licence": known.licence, "origin": known.origin}
    adata.uns["source"] = {key: value for key, value in source.items() if value}
    if known.kept and adata.shape == (known.cells, known.genes):
        _write(adata, _cache() / known.kept)
    return adata


def _cache() -> Path:
    folder = os.environ.get("SAMSLIB_CACHE", "")
    if not folder:
        import pooch

        folder = str(pooch.os_cache("samslib"))
    return Path(folder).expanduser()


def _place(known: Dataset) -> Path:
    """Where the file of a data set belongs."""
    if known.make is None:
        return _cache() / known.file
    folder = os.environ.get("SAMSLIB_DATA") or Path(__file__).resolve().parent.parent / "data"
    return Path(folder).expanduser() / known.file


def _here(known: Dataset) -> Path:
    """The file that `load` would read: what a long reading left, or the published file."""
    kept = _cache() / known.kept
    return kept if known.kept and kept.is_file() else _place(known)


def sha256(name: str) -> str:
    """Checksum of a data set's file as it lies here, for the provenance of results."""
    load(name)
    return _sha256(_here(DATASETS[name]))


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _read(path: Path, remedy: str) -> AnnData:
    import anndata

    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # a damaged HDF5 file fails in many ways
        raise DatasetError(f"{path} cannot be read ({_reason(error)}); {remedy}.") from error


def _write(adata: AnnData, place: Path, **options: Any) -> None:
    """Write a file that is there only once it is complete."""
    part = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        adata.write_h5ad(part, **options)
        os.replace(part, place)
    except OSError as error:
        raise DatasetError(f"{place} cannot be written ({error}); give another folder.") from error
    finally:
        part.unlink(missing_ok=True)


def _check_own(name: str, file: File, path: Path) -> None:
    """A file of the user's is of the published schema, and of the published size or said not to be."""
    if not path.is_file():
        raise DatasetError(f"There is no file {path}; the file of {name!r} is had from {file.address}.")
    if problem := file.problem(path, own=True):
        raise DatasetError(f"{path} is not the file of {name!r}: it {problem}; get it from {file.address}.")
    if problem := file.problem(path):
        LOG.warning("%s %s; it is read all the same", path, problem)


def _fetch(name: str, known: Dataset, file: File) -> None:
    """Bring a file into the cache, unless it is there unharmed; it gets its name only once it is whole and checked.

    A damaged file in the cache is fetched again if its sha256 is known; else it may be half of a download by hand, and
    is left alone.
    """
    import pooch

    place = _cache() / file.name
    resume = f"`curl -L -C - -o {shlex.quote(str(place))} {shlex.quote(file.address)}`"
    ways = [*file.others, *(f"load({other!r})" for other in known.alternatives), f"load({name!r}, path=...)"]
    by_hand = f"by hand, resumed where it broke off: {resume}; other ways: {', '.join(ways)}"
    problem = ""
    try:
        if place.is_file():
            if not (problem := file.problem(place)):
                return
            if not file.sha256:
                raise DatasetError(f"{place} {problem}; delete it and load again, or go on {by_hand}.")
        place.parent.mkdir(parents=True, exist_ok=True)
        _check_room(file, place.parent)
        known_hash = f"sha256:{file.sha256}" if file.sha256 else None
        pooch.retrieve(file.address, known_hash, place.name, place.parent, downloader=_downloader(file))
    except DatasetError:
        raise
    except ValueError as error:  # the downloader's word, or pooch's, for other bytes; they are removed
        raise DatasetError(f"What {file.address} gave {_reason(error)} and was not kept; {by_hand}.") from error
    except OSError as error:
        if error.errno is not None or isinstance(error, PermissionError):  # of the disk: the network's have none
            reason = error.strerror or _reason(error)
            remedy = "free or unlock it, or set SAMSLIB_CACHE to another folder"
            raise DatasetError(f"The cache folder {place.parent} cannot be used ({reason}); {remedy}.") from error
        damaged = " (the file that is there is damaged)" if problem else ""
        status = getattr(getattr(error, "response", None), "status_code", "")
        reason = f"{type(error).__name__} {status}".strip()
        what = f"{name} could not be fetched{damaged} from {file.address} ({reason})"
        raise DatasetError(f"{what}; try again, or {by_hand}.") from error


def _check_room(file: File, folder: Path) -> None:
    if (free := shutil.disk_usage(folder).free / 1e9) < file.gigabytes:
        need = f"{file.gigabytes:g} GB are needed and {free:.1f} GB are free"
        raise DatasetError(f"The cache folder {folder} has no room for {file.name}: {need}; set SAMSLIB_CACHE.")


def _downloader(file: File) -> Any:
    """For pooch: stream to its temporary file with a bar, and refuse there what is not the published file."""
    import pooch

    def download(address: str, to: str, _: Any) -> None:
        bar = download_bar(file.name)
        try:
            pooch.HTTPDownloader(progressbar=bar, chunk_size=2**20, timeout=30)(address, to, None)
        finally:
            bar.close()
        if problem := file.problem(Path(to)):
            raise ValueError(problem)

    return download


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
        _write(known.make(), place, compression="gzip", compression_opts=9)
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
