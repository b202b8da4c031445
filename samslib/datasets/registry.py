"""The registry of data sets, `registry.toml`: addresses, checksums, readers."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from samslib.datasets import readers, simulate
from samslib.datasets.readers import DatasetError

if TYPE_CHECKING:
    from anndata import AnnData


def sha256(path: Path) -> str:
    """Checksum of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class File:
    """A published file.

    Parameters
    ----------
    name
        In the cache.
    address, others
        Where it is fetched from, and other ways to it.
    gigabytes
        About its size; 0 if not published.
    sha256
        Its checksum; empty if not published.
    shape
        Numbers of cells and genes; None if not published.
    needs
        What its reader uses, as paths inside the HDF5 file.
    lists
        Whether it is the notebook that holds lists of names instead of cells.
    """

    name: str
    address: str
    others: tuple[str, ...] = ()
    gigabytes: float = 0.0
    sha256: str = ""
    shape: tuple[int, int] | None = None
    needs: tuple[str, ...] = ()
    lists: bool = False

    def problem(self, path: Path, own: bool = False) -> str:
        """Why a file is not this one.

        Parameters
        ----------
        path
            The file.
        own
            Whether it is the user's, which may hold other cells if it has what the reader needs.

        Returns
        -------
        Such as "has no obs/gene"; empty if all that is known of this file agrees.
        """
        if self.sha256 and not (own and self.needs):
            return "" if sha256(path) == self.sha256 else f"has not the sha256 {self.sha256}"
        try:
            if self.lists:
                readers.published_lists(path)
                return ""
            with h5py.File(path) as file:
                missing = [part for part in self.needs if part not in file]
                shape = None if missing else _shape(file)
        except DatasetError as error:
            return str(error)
        except (OSError, KeyError, ValueError) as error:
            return f"is no whole HDF5 file of cells ({str(error).splitlines()[0]})"
        if missing:
            return f"has no {' and no '.join(missing)}"
        if self.shape and shape != self.shape and not own:
            return f"holds {shape} cells and genes, where {self.shape} were published"
        return ""


def _shape(file: h5py.File) -> tuple[int, int]:
    cells, genes = (len(file[axis][file[axis].attrs["_index"]]) for axis in ("obs", "var"))
    return cells, genes


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is read.

    Parameters
    ----------
    file
        Name of its (first) file.
    origin, licence
        Of the cells.
    cells, genes, perturbations, conditions
        Numbers in the AnnData that `load` gives; None where nobody states them.
    control
        Label of controls; None without any.
    values
        "counts" or "real".
    arguments
        Those of `PerturbationData.from_anndata` that differ from its defaults.
    split
        The published one.
    alternatives
        Data sets of the same cells.
    files
        Published files, in the order that the reader takes them.
    kept
        Name under which the cache keeps the cells after a long reading; empty if it does not.
    read
        Makes the AnnData of `files`.
    make
        Draws a simulated one.
    """

    file: str
    origin: str
    licence: str
    cells: int | None = None
    genes: int | None = None
    perturbations: int | None = None
    conditions: int | None = None
    control: str | None = "control"
    values: str = "counts"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    alternatives: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    kept: str = ""
    read: Callable[..., AnnData] | None = None
    make: Callable[[], AnnData] | None = None


def _simulation() -> AnnData:
    """The published simulation, smaller, in steps of 1/256 so that it packs well."""
    adata = simulate.sams_vae_simulation(perturbations=30, cells=(60, 20, 20), seed=0)
    adata.X, adata.layers["mean"] = (np.round(256 * values) / 256 for values in (adata.X, adata.layers["mean"]))
    return adata


SIMULATORS = {"sams-sim": _simulation, "sams-pairs": simulate.perturb_seq}


def _fields(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of `registry.toml` with its lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def _dataset(entry: dict[str, Any], files: dict[str, File]) -> Dataset:
    fields = _fields(entry)
    fields["control"] = fields.get("control", "control") or None
    fields["arguments"] = {name: None if v == "" else v for name, v in fields.get("arguments", {}).items()}
    if simulator := fields.pop("simulator", None):
        return Dataset(**fields, make=SIMULATORS[simulator])
    published = tuple(files[name] for name in fields.pop("files"))
    read = readers.READERS[fields.pop("reader")]
    return Dataset(**fields, file=published[0].name, files=published, read=read)


def _registry() -> dict[str, Dataset]:
    table = tomllib.loads(Path(__file__).with_name("registry.toml").read_text(encoding="utf-8"))
    files = {name: File(name, **_fields(entry)) for name, entry in table["files"].items()}
    return {name: _dataset(entry, files) for name, entry in table["datasets"].items()}


DATASETS = _registry()

SOURCES = {name: known for name, known in DATASETS.items() if known.files}  # those of real cells
