"""Records of public files: what is known of a file tells it from another, and the page says what the records say."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import test_readers as small

from samslib.data.container import PerturbationData
from samslib.datasets.registry import SOURCES, File, sha256

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "data.md").read_text(encoding="utf-8")


@pytest.fixture
def path(tmp_path):
    return small.norman_file(tmp_path / "norman.h5ad")


def test_a_file_is_known_by_its_sum_or_by_its_parts_and_size(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256(path) == digest
    by_sum, by_parts = (
        File("a", "b", sha256=digest),
        File("a", "b", shape=(4, 6), needs=("layers/counts", "obs/guide_ids")),
    )
    assert not by_sum.problem(path) and not by_parts.problem(path)
    assert "sha256" in replace(by_sum, sha256="0" * 64).problem(path)
    assert "sha256" in replace(by_sum, sha256="0" * 64).problem(path, own=True), "nothing else is known of it"
    assert replace(by_parts, shape=(4, 7)).problem(path) == "holds (4, 6) cells and genes, where (4, 7) were published"
    assert not replace(by_parts, shape=(4, 7), sha256="0" * 64).problem(path, own=True)
    assert (
        replace(by_parts, needs=("obs/gene", "X", "var/none")).problem(path, own=True)
        == "has no obs/gene and no var/none"
    )


def test_every_cut_of_a_file_is_seen(path):
    """Wherever the bytes end, HDF5 or the schema tells."""
    whole = path.read_bytes()
    for part in (0, 10, 600, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:part])
        assert File("a", "b", needs=("X",)).problem(path).startswith("is no whole HDF5 file")


def test_records_say_what_a_reader_can_hold_them_to():
    for name, known in SOURCES.items():
        first = known.files[0]
        assert known.file == first.name and callable(known.read)
        assert first.sha256 or first.needs, f"nothing is checked of {name}"
        assert all(other in SOURCES for other in known.alternatives)
        assert set(known.arguments) <= set(PerturbationData.from_anndata.__annotations__)
    assert [len(f.sha256) for f in SOURCES["norman-devel"].files] == [64]


def test_the_page_lists_every_set_address_size_and_citation():
    written = set(re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE)))
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    for name, known in SOURCES.items():
        assert name in written, f"book/data.md has no {name}"
        for file in known.files:
            assert file.address.removeprefix("https://") in written, file.address
            for other in (o for o in file.others if o.startswith("https://")):
                assert other.removeprefix("https://") in written, other
            assert not file.gigabytes or f"{file.gigabytes:g} GB" in PAGE
        if known.cells:
            assert f"{known.cells:,} × {known.genes:,}" in PAGE
    cited = re.findall(r"\{cite:[tp]\}`([^`]+)`", PAGE)
    assert len(set(cited)) >= 9 and all(f"{{{key}," in bibliography for key in cited)
