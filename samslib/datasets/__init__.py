"""Named data sets: two small simulated ones that come with the repository, and public screens of real cells, fetched
when first asked for, checked and kept.

`python -m samslib.datasets regenerate` writes the simulated ones again, byte for byte with the pinned
versions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from samslib.data.messages import did_you_mean
from samslib.datasets.fetch import _cache, _from_files, _here, _place, _read, _write
from samslib.datasets.readers import DatasetError
from samslib.datasets.registry import DATASETS as DATASETS
from samslib.datasets.registry import SOURCES as SOURCES
from samslib.datasets.registry import sha256 as _sha256

if TYPE_CHECKING:
    from anndata import AnnData

REGENERATE = "python -m samslib.datasets regenerate"


def describe() -> pd.DataFrame:
    """One row a data set.

    Returns
    -------
    Its size as `load` gives it (missing where nobody states it), control label, kind of values, arguments for
    `PerturbationData.from_anndata` beside its defaults, published split, origin, licence, file, about how many
    gigabytes, address, and whether the file is here now.
    """
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
    smaller: real values, no controls) and "sams-pairs" (simulated counts of single and paired perturbations) keep the
    truth in `uns["truth"]`, `obsm["z_basal"]` and `obsm["z"]`; they are read from the repository's `data/`, or from the
    folder in the environment variable SAMSLIB_DATA. All others are real cells: the file is fetched once, checked, and
    kept in the folder in SAMSLIB_CACHE, else the platform's; `uns["source"]` says where it is from.

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


def sha256(name: str) -> str:
    """Checksum of the file of the data set `name` as it lies here, for the provenance of results."""
    load(name)
    return _sha256(_here(DATASETS[name]))


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
    written: dict[str, Path] = {}
    for name, known in DATASETS.items():
        if known.make is None:
            continue
        place = _place(known) if folder is None else Path(folder).expanduser() / known.file
        _write(known.make(), place, compression="gzip", compression_opts=9)
        written[name] = place
    return written
