"""The registry of data sets, `registry.toml`: addresses, checksums, readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
from anndata import AnnData
from pooch import file_hash as sha256

from samslib.datasets import readers, simulate
from samslib.datasets.readers import DatasetError


@dataclass(frozen=True)
class File:
    """A published file: cells in HDF5, the notebook that holds lists of names, or anything that has a sha256.

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
        Numbers of cells and genes; empty if not published.
    needs
        What its reader uses, as paths inside the HDF5 file.
    """

    name: str
    address: str
    others: Sequence[str] = ()
    gigabytes: float = 0.0
    sha256: str = ""
    shape: Sequence[int] = ()
    needs: Sequence[str] = ()

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
            if self.name.endswith(".ipynb"):
                readers.published_lists(path)
                return ""
            with h5py.File(path) as file:
                if missing := [part for part in self.needs if part not in file]:
                    return f"has no {' and no '.join(missing)}"
                shape = tuple(len(file[axis][file[axis].attrs["_index"]]) for axis in ("obs", "var"))
        except DatasetError as error:
            return str(error)
        except (OSError, KeyError, ValueError) as error:
            return f"is no whole HDF5 file of cells ({str(error).splitlines()[0]})"
        if self.shape and shape != tuple(self.shape) and not own:
            return f"holds {shape} cells and genes, where {tuple(self.shape)} were published"
        return ""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is known of a data set before it is read.

    Parameters
    ----------
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
    origin, licence
        Of the cells.
    file
        Name of its (first) file.
    alternatives
        Data sets of the same cells.
    files
        Published files, in the order that the reader takes them.
    kept
        Name under which the cache keeps the cells after a long reading; empty if it does not.
    read
        Makes the AnnData, of `files` or, where there are none, by simulation.
    """

    cells: int | None = None
    genes: int | None = None
    perturbations: int | None = None
    conditions: int | None = None
    control: str | None = "control"
    values: str = "counts"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    origin: str
    licence: str
    file: str
    alternatives: Sequence[str] = ()
    files: Sequence[File] = ()
    kept: str = ""
    read: Callable[..., AnnData]


def _dataset(reader: str, files: Sequence[str] = (), options: Mapping[str, Any] = {}, **known: Any) -> Dataset:
    """An entry of `registry.toml`."""
    known["control"] = known.get("control", "control") or None
    known["arguments"] = {name: None if value == "" else value for name, value in known.get("arguments", {}).items()}
    known.setdefault("file", next(iter(files), ""))
    read = partial(getattr(readers if files else simulate, reader), **options)
    return Dataset(**known, files=[FILES[name] for name in files], read=read)


FILES = {name: File(name, **entry) for name, entry in readers.REGISTRY["files"].items()}

DATASETS = {name: _dataset(**entry) for name, entry in readers.REGISTRY["datasets"].items()}

SOURCES = {name: known for name, known in DATASETS.items() if known.files}  # those of real cells
