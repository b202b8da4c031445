"""Public files of perturbed cells: where each is had, by what it is known, and which reader makes cells of it.

A `File` says where and by what, a `Dataset` what `samslib.datasets.load` makes of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from samslib.datasets import readers
from samslib.datasets.readers import DatasetError

if TYPE_CHECKING:
    from anndata import AnnData

FIGSHARE = "https://ndownloader.figshare.com/files/"

SCPERTURB = "https://zenodo.org/record/7041849/files/"

PERTPY = "https://exampledata.scverse.org/pertpy/"

MIRROR = "insitro-research-2023-sams-vae"

CODE = "https://raw.githubusercontent.com/"

UNSTATED = "not stated with the address; see the record's page"


def sha256(path: Path) -> str:
    """Checksum of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class File:
    """A published file: its name in the cache, address, other ways to it, and what is known of it.

    `gigabytes` is approximate, 0 if not published; `shape` its cells and genes if published; `needs` the parts that
    the reader uses, as paths inside the HDF5 file; `lists` marks the notebook that holds lists of names instead.
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
        """Why `path` is not this file ("has no obs/gene", for one), or nothing if all that is known of it agrees; one
        of the user's `own` may hold other cells, if it is known what the reader needs."""
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

    `cells`, `genes`, `perturbations` and `conditions` are those of the AnnData that `load` gives, None where nobody
    states them. `arguments` are those of `PerturbationData.from_anndata` that differ from its defaults, `split` the
    published one. `read` makes the AnnData of `files`, `make` draws a simulated one; `kept` is the name under which
    the cache keeps what a long `read` gave.
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


_DEVEL = File(
    "perturbench-devel.h5ad",
    f"{CODE}altoslabs/perturbench/d357dfae3b50968e800e9f5f273ff145080ae67c/src/perturbench/data/resources/devel.h5ad",
    gigabytes=0.001,
    sha256="220998f5630c813228c8661c86dd52244b9ac87127511289af90e0d900d8429b",
)

_LISTS = File(
    "replogle-lists.ipynb",
    f"{CODE}Genentech/sVAE/48685f6ded5432b01e951fef569f1fc535f5fd7b/entry_points/replogle-preprocessing.ipynb",
    others=(
        f"{CODE}insitro/sams-vae/10d781c9595b38e434f00b5670c1deb15ffaf632/"
        "sams_vae/data/replogle/replogle_filtered_preprocessing.ipynb",
    ),
    lists=True,
)


def _s3(name: str) -> str:
    return f"aws s3 cp s3://{MIRROR}/data/{name} . (needs an account)"


def _scperturb(name: str, *needs: str, shape: tuple[int, int] | None = None, others: tuple[str, ...] = ()) -> File:
    """A file of the scPerturb collection."""
    return File(f"{name}.h5ad", f"{SCPERTURB}{name}.h5ad", others, shape=shape, needs=("X", "obs/perturbation", *needs))


_SCPERTURB_TERMS = "CC-BY-4.0 (stated for a later record of the collection, 13350497)"

_DRUGS = {"separator": None, "dose": "dose", "covariates": "cell_line"}  # (+)-JQ1 is one drug

_REPLOGLE: dict[str, Any] = dict(
    origin="Replogle et al. 2022, K562 genome-wide CRISPRi, as filtered for SVAE+ and SAMS-VAE",
    cells=118_641,
    genes=1_187,
    perturbations=722,
    conditions=723,
    arguments={"separator": None},  # guides are named with a strand, + or -
    split="splits.random(0)",
)

SOURCES = {
    "norman-devel": Dataset(
        _DEVEL.name,
        "Norman et al. 2019, by PerturBench",
        "BSD-3-Clause",
        *(3375, 500, 31, 34),
        files=(_DEVEL,),
        read=readers.devel("norman19", smallest_is_one=False),
    ),
    "mcfaline-devel": Dataset(
        _DEVEL.name,
        "McFaline-Figueroa et al. 2023, by PerturBench",
        "BSD-3-Clause",
        *(2586, 500, 9, 10),
        arguments={"covariates": "cell_type"},
        files=(_DEVEL,),
        read=readers.devel("mcfaline23", smallest_is_one=True),
    ),
    "norman": Dataset(
        "norman.h5ad",
        "Norman et al. 2019, K562 CRISPRa, processed in the sc-pert collection",
        UNSTATED,
        split="splits.combinations or splits.combination_cells, names=obs['guide_identity']",
        alternatives=("norman-scperturb",),
        files=(
            File(
                "norman.h5ad",
                f"{FIGSHARE}34027562",
                others=(f"{PERTPY}norman_2019.h5ad", _s3("norman.h5ad")),
                gigabytes=1.7,
                needs=("layers/counts", "var/highly_variable", "obs/guide_identity"),
            ),
        ),
        read=readers.norman,
    ),
    "norman-scperturb": Dataset(
        "NormanWeissman2019_filtered.h5ad",
        "Norman et al. 2019, K562 CRISPRa, by scPerturb",
        _SCPERTURB_TERMS,
        *(111_445, 33_694),
        alternatives=("norman",),
        files=(_scperturb("NormanWeissman2019_filtered", shape=(111_445, 33_694)),),
        read=readers.norman_scperturb,
    ),
    "replogle": Dataset(
        "replogle.h5ad",
        **_REPLOGLE,
        licence="not stated with the file; its repository is CC-BY-NC",
        alternatives=("replogle-raw",),
        files=(
            File(
                "replogle.h5ad",
                f"https://{MIRROR}.s3.amazonaws.com/data/replogle.h5ad",
                others=(_s3("replogle.h5ad"),),
                gigabytes=0.55,
                shape=(118_641, 1_187),
                needs=("X", "obs/gene", "obs/sgID_AB", "uns/pathways"),
            ),
        ),
        read=readers.replogle,
    ),
    "replogle-raw": Dataset(
        "K562_gwps_raw_singlecell_01.h5ad",
        **_REPLOGLE,
        licence=UNSTATED,
        alternatives=("replogle",),
        files=(
            File(
                "K562_gwps_raw_singlecell_01.h5ad",
                "https://plus.figshare.com/ndownloader/files/35775507",
                gigabytes=66,
                shape=(1_989_578, 8_248),
                needs=("X", "obs/gene", "obs/sgID_AB", "var/gene_name"),
            ),
            _LISTS,
        ),
        kept="replogle-from-raw.h5ad",
        read=readers.replogle_raw,
    ),
    "adamson": Dataset(
        "AdamsonWeissman2016_GSM2406681_10X010.h5ad",
        "Adamson et al. 2016, K562 CRISPRi, by scPerturb",
        _SCPERTURB_TERMS,
        split="splits.random(0)",
        files=(_scperturb("AdamsonWeissman2016_GSM2406681_10X010"),),
        read=readers.adamson,
    ),
    "dixit": Dataset(
        "dixit_2016_raw.h5ad",
        "Dixit et al. 2016, knock-outs, raw in the sc-pert collection",
        UNSTATED,
        split="splits.combinations(0.75)",
        files=(File("dixit_2016_raw.h5ad", f"{FIGSHARE}34011689", gigabytes=2.5, needs=("X", "obs")),),
        read=readers.dixit,
    ),
    "sciplex2": Dataset(
        "SrivatsanTrapnell2020_sciplex2.h5ad",
        "Srivatsan et al. 2020, four drugs by dose on A549, by scPerturb",
        _SCPERTURB_TERMS,
        arguments=_DRUGS,
        files=(_scperturb("SrivatsanTrapnell2020_sciplex2", "obs/dose_value", "obs/cell_line"),),
        read=readers.sciplex,
    ),
    "sciplex3": Dataset(
        "SrivatsanTrapnell2020_sciplex3.h5ad",
        "Srivatsan et al. 2020, 188 drugs by dose on three lines, by scPerturb",
        _SCPERTURB_TERMS,
        arguments=_DRUGS,
        files=(_scperturb("SrivatsanTrapnell2020_sciplex3", "obs/dose_value", "obs/cell_line"),),
        read=readers.sciplex,
    ),
    "kang": Dataset(
        "kang_2018.h5ad",
        "Kang et al. 2018, blood cells with and without interferon beta, by pertpy",
        UNSTATED,
        *(24_673, 15_706, 1, 2),
        arguments={"covariates": "cell_type"},
        files=(
            File(
                "kang_2018.h5ad",
                f"{PERTPY}kang_2018.h5ad",
                others=(f"{FIGSHARE}34464122",),
                gigabytes=0.04,
                sha256="e6a5adac64dcdeb36eaba27db49b63e0c64bb0ed4a64c6705971506b41c39830",
                shape=(24_673, 15_706),
                needs=("X", "obs/label", "obs/cell_type"),
            ),
        ),
        read=readers.kang,
    ),
}
