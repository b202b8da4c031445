"""A report on cells of one's own: one page of HTML that needs nothing else, and one sentence where cells do not fit."""

from __future__ import annotations

import re

import nbformat
import pytest
from samsbook import report
from samsbook.__main__ import main

import samslib


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    adata = samslib.simulate.guide_screen(targets=4, guides=2, cells=30, controls=130, genes=20, latent=8, seed=1)
    adata.obs = adata.obs.rename(columns={"perturbation": "guide", "gene": "symbol"})
    path = tmp_path_factory.mktemp("cells") / "my.h5ad"
    adata.write_h5ad(path)
    return path


QUICK = ["-p", "steps", "6", "-p", "members", "1", "-p", "resamples", "20"]


def test_a_report_is_one_page_with_tables_and_figures_and_no_code(file, tmp_path, capsys):
    output, kept = tmp_path / "report.html", tmp_path / "kept"
    columns = ["--perturbation", "guide", "--target", "symbol", "--save-to", str(kept)]
    assert main(["report", str(file), *columns, *QUICK, "-o", str(output)]) == 0
    assert f"The report is {output}" in capsys.readouterr().out
    page = output.read_text(encoding="utf-8")
    assert "<script" not in page and not re.search(r"(?:src|href)=\"https?:", page)
    assert "8 guides of 4 targets" in page and "written, read and equal" in page
    assert page.count("<table") >= 4 and page.count("data:image/png") >= 3
    assert "rank_perturbations" not in page  # its code
    assert {path.name for path in kept.iterdir()} == {"model.safetensors", "effects.h5ad", "ranked.csv"}


def test_a_screen_of_three_perturbations_is_reported_without_intervals(tmp_path):
    adata = samslib.simulate.perturb_seq(singles=3, pairs=0, cells=25, controls=60, genes=12, latent=4, seed=0)
    adata.write_h5ad(tmp_path / "three.h5ad")
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "three.h5ad"), *QUICK, "-o", str(output)]) == 0
    page = output.read_text(encoding="utf-8")
    assert "No intervals: they are calibrated on 5 conditions at least, and there are 3." in page


def test_what_does_not_fit_is_one_sentence(file, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "other.h5ad"), "-o", str(output)]) == 2
    assert "There is no file" in capsys.readouterr().err
    assert main(["report", str(file), "--perturbation", "guides", *QUICK, "-o", str(output)]) == 1
    said = capsys.readouterr().err
    assert "'guides'" in said and "guide" in said and not output.exists()


def test_without_options_guides_and_batches_are_not_those_of_the_chapters_own_cells(file):
    given = report.asked(file, {"perturbation": "guide", "target": None, "within": None})
    assert given["target"] == "" and "within" not in given and given["perturbation"] == "guide"
    assert given["steps"] == "0", "by the number of cells"


def test_a_page_has_outputs_and_prose_without_roles_and_progress(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("See {doc}`the book </book>` and {cite:t}`someone`."),
        nbformat.v4.new_code_cell("secret = 1"),
    ]
    cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="shown\n"),
        nbformat.v4.new_output("stream", name="stderr", text="noise\n"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    page = report.write(tmp_path / "a.ipynb", tmp_path / "a.html").read_text()
    assert "shown" in page and "someone" in page
    assert not any(word in page for word in ("secret", "noise", "{doc}", "{cite:t}"))
