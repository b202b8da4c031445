"""A report on cells of one's own: one page of HTML that needs nothing else, and one sentence where cells do not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from samsbook import own, report
from samsbook.__main__ import main
from samsbook.check_html import Page
from scipy.stats import binom, hypergeom
from test_layout import ROOT

import samslib
from samslib import DataError, PerturbationData


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    adata = samslib.simulate.guide_screen(targets=4, guides=2, cells=30, controls=130, genes=20, latent=8, seed=1)
    adata.obs = adata.obs.rename(columns={"perturbation": "guide", "gene": "symbol"})
    path = tmp_path_factory.mktemp("cells") / "my.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def cells():
    return own.simulated(0)


def read(adata, **options):
    found = own.controls(adata, "perturbation", options.pop("control", "NT_*"))
    return PerturbationData.from_anndata(adata, control=found, **{"target": "gene", **options})


QUICK = ["-p", "steps", "6", "-p", "resamples", "20", "-p", "shown", "60"]


def test_a_report_is_one_page_with_tables_and_figures_and_no_code(file, tmp_path, capsys):
    output, kept, gmt = tmp_path / "report.html", tmp_path / "kept", tmp_path / "sets.gmt"
    gmt.write_text("first\tof the test\tG00\tG01\tG02\tG03\n")
    columns = ["--perturbation", "guide", "--target", "symbol", "--save-to", str(kept), "--gmt", str(gmt)]
    assert main(["report", str(file), *columns, *QUICK, "-o", str(output)]) == 0
    said = capsys.readouterr().out
    assert f"The report is {output}" in said
    assert re.search(r"^ *\d+ s  Training$", said, re.MULTILINE), "a line a step"
    text = output.read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text and not page.faults and all(url.startswith("data:") for url in page.loads)
    assert "8 guides of 4 targets" in text and "written, read and equal" in text
    assert text.count("<table") >= 8 and text.count("data:image/svg+xml") == 4
    assert "own.ranked" not in text and "Exercise" not in text and str(tmp_path) not in text
    assert text.index("Trained to its end?") < text.index("What was read"), "the verdict comes first"
    names = {path.name for path in kept.iterdir()}
    assert names >= {"model.safetensors", "effects.h5ad", "ranked.csv", "effects.csv", "verdict.csv"}


def test_a_screen_of_three_perturbations_is_reported_without_intervals(tmp_path):
    adata = samslib.simulate.perturb_seq(singles=3, pairs=0, cells=25, controls=60, genes=12, latent=4, seed=0)
    adata.write_h5ad(tmp_path / "three.h5ad")
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "three.h5ad"), *QUICK, "-o", str(output)]) == 0
    page = output.read_text(encoding="utf-8")
    assert "No intervals: they are calibrated on 5 conditions at least, and there are 3." in page
    assert "unvalidated: too few conditions to calibrate intervals" in page
    assert "Unvalidated: no perturbation has 10 test cells." in page


def test_what_does_not_fit_is_one_sentence(file, tmp_path, capsys):
    output = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "other.h5ad"), "-o", str(output)]) == 2
    assert "There is no file" in capsys.readouterr().err
    assert main(["report", str(file), "--perturbation", "guides", *QUICK, "-o", str(output)]) == 1
    said = capsys.readouterr().err
    assert "'guides'" in said and "guide" in said and not output.exists()
    (tmp_path / "no.h5ad").write_text("no cells")
    with pytest.raises(DataError, match="There is no file"):
        own.read("none.h5ad")
    with pytest.raises(DataError, match=r"no.h5ad cannot be read as .h5ad \(.*\); write it by adata.write_h5ad"):
        own.read(str(tmp_path / "no.h5ad"))


def test_without_options_guides_and_batches_are_not_those_of_the_chapters_own_cells(file):
    given = report.asked(file, {"perturbation": "guide", "target": None, "within": None})
    assert given["target"] == "" and "within" not in given and given["perturbation"] == "guide"
    assert given["adata_path"] == str(file.resolve()) and report.absolute({"gmt": ""}) == {"gmt": ""}
    assert given["control"] == "control" and given["steps"] == "0", "by the number of cells"


def test_a_page_has_outputs_and_prose_without_roles_progress_and_what_is_of_the_book(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("See {doc}`the book </book>` and {cite:t}`someone`."),
        nbformat.v4.new_code_cell("secret = 1"),
        nbformat.v4.new_markdown_cell("An exercise.", metadata={"tags": ["book"]}),
        nbformat.v4.new_code_cell("verdict", metadata={"tags": ["first"]}),
    ]
    cells[1].outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="shown <b>\n"),
        nbformat.v4.new_output("stream", name="stderr", text="noise\n"),
    ]
    cells[3].outputs = [nbformat.v4.new_output("stream", name="stdout", text="first of all\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    page = report.write(tmp_path / "a.ipynb", tmp_path / "a.html").read_text()
    assert "shown &lt;b&gt;" in page and "someone" in page and page.count("first of all") == 1
    assert page.index("first of all") < page.index("someone")
    assert not any(word in page for word in ("secret", "noise", "{doc}", "{cite:t}", "exercise"))


def test_steps_are_told_as_sections_begin(capsys):
    cells = [
        nbformat.v4.new_code_cell("1"),
        nbformat.v4.new_markdown_cell("## One\n\nText."),
        nbformat.v4.new_code_cell("2"),
        nbformat.v4.new_code_cell("3"),
    ]
    line = report.progress(report.headings(SimpleNamespace(cells=cells)))
    for i, cell in enumerate(cells):
        line(cell=cell, cell_index=i)
    assert capsys.readouterr().out.splitlines() == ["   0 s  One"]


# --- what was read -----------------------------------------------------------------------------------------


def test_controls_are_a_label_several_or_a_pattern(cells):
    all_four = ["NT_1", "NT_2", "NT_3", "NT_4"]
    assert own.controls(cells, "perturbation", "NT_*") == all_four
    assert own.controls(cells, "perturbation", "NT_2; NT_1") == ["NT_2", "NT_1"]
    assert own.controls(cells, "perturbation", "NT_3") == "NT_3"
    assert own.controls(cells, "perturbation", "ctrl") == "ctrl" == own.controls(cells, "none", "ctrl")
    with pytest.raises(DataError, match="did you mean control="):
        read(cells, control="ctrl")


def test_targets_are_a_column_or_stand_before_a_sign(cells):
    by_name = read(cells, target=own.targets(cells, "_"))
    assert by_name.targets == read(cells).targets
    assert own.targets(cells, "gene") == "gene" and own.targets(cells, "") is None


def test_what_is_odd_is_listed_with_its_remedy(cells):
    odd = cells[(cells.obs["perturbation"] != "P01_a") | (np.arange(cells.n_obs) % 10 == 0)].copy()
    odd.obs["lane"] = np.where(np.arange(odd.n_obs) % 2, "1", "2")
    odd.var_names = ["MT-CO1", *odd.var_names[1:]]
    x = odd.X.tolil()
    at = np.flatnonzero(odd.obs["perturbation"] == "P01_a")
    x[at], x[at, 0] = 0, 3
    odd.X = x.tocsr()
    with own.remarks() as said:
        data = read(odd)
    table = own.intake(data, said, odd.obs)
    assert "P01_a" in table.loc["conditions of fewer than 20 cells", "found"]
    assert "--within lane" in table.loc["columns that look like batches", "remedy"]
    assert table.loc["cells of less than a fifth of the median", "remedy"].startswith("drop")
    assert "P01_a (0.0" in table.loc["conditions whose depth differs from controls", "found"]
    assert "quality.label" in table.loc["mitochondrial share", "remedy"]
    assert "rewritten" in table.loc["said while reading", "found"]
    plain = own.intake(read(cells))
    assert "conditions of fewer than 20 cells" not in plain.index and "guides a target" in plain.index
    levels = own.by_level(read(odd, covariates=["lane"]), "lane")
    assert levels["control cells"].sum() == 400 and (levels["perturbed cells"] > 700).all()


def test_cells_in_their_file_are_reported_as_those_in_memory(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = read(own.read(str(tmp_path / "cells.h5ad")))
    pd.testing.assert_frame_equal(own.intake(backed), own.intake(read(cells)))
    split = samslib.splits.random(seed=0)
    made = [own.choose_genes(data, data.split(split)[0], 30) for data in (backed, read(cells))]
    assert made[0][1] == made[1][1] == "30 of 80 genes" and (made[0][0].x != made[1][0].x).nnz == 0


def test_cells_without_counts_on_the_chosen_genes_are_left_out_and_said(cells):
    data = read(cells)
    x = data.x.tolil()
    x[:7, :60] = 0
    data = replace(data, x=x.tocsr(), library=np.ravel(x.sum(1)))
    chosen, said = own.choose_genes(data, data[300:], 12)
    assert len(chosen) < len(data) and re.search(r"12 of 80 genes; \d+ cells have no counts on them", said)


# --- data alone --------------------------------------------------------------------------------------------


def test_a_control_guide_that_acts_stands_out_from_the_others(cells):
    assert (own.control_null(read(cells), (), 200, seed=0)["fdr"] > 0.05).all(), "seed fixed; in 1 of 20 seeds not"
    acting = cells.copy()
    acting.obs = acting.obs.astype(str)
    acting.obs["perturbation"] = acting.obs["perturbation"].replace("P09_a", "NT_9")
    acting.obs.loc[acting.obs["perturbation"] == "NT_9", "gene"] = "control"
    table = own.control_null(read(acting), (), 200, seed=0).set_index("perturbation")
    assert table.index[0] == "NT_9" and table.loc["NT_9", "fdr"] < 0.05
    assert table.loc["NT_9", "size"] > 2 * table["size"].drop("NT_9").max()
    assert own.control_null(read(cells, control="NT_1"), (), 20, seed=0).empty


def test_the_ranked_table_tells_of_guides_ceilings_and_own_genes(cells):
    named = cells.copy()
    named.var_names = ["P03", *named.var_names[1:]]
    table = own.ranked(read(named), (), 200, seed=0).set_index("perturbation")
    assert (
        table.loc["P03", "guides with an effect"] == "2 of 2" and table.loc["P00", "guides with an effect"] == "0 of 2"
    )
    assert table.loc["P03", "alike"] > 0.9 > table.loc["P00", "alike"]
    assert table.loc["P03", "ceiling"] > 0.9 and table["own gene"].notna().sum() == 1
    assert (table["note"] == "").all()


# --- verdict -----------------------------------------------------------------------------------------------


def judged(said="Trained: best.", value=0.9, best=0.8, p=(1.0, 0.0), coverage=(0.9, 9), direct=(), width=0.05):
    scores = pd.DataFrame({"model": ["SAMS-VAE", "data: x"], "value": [value, best], "high": [value + width, 1]})
    on = pd.DataFrame([p, p], ["A", "B"])
    history = SimpleNamespace(verdict=lambda: said)
    return own.verdict([history], scores, on, pd.DataFrame({"target": direct}), ["A", "B"], coverage, 0.9)


@pytest.mark.parametrize(
    "changed, question, light",
    [
        ({}, None, "green"),
        ({"said": "Perhaps not trained"}, "Trained to its end?", "amber"),
        ({"said": "Worse than the mean"}, "Trained to its end?", "red"),
        ({"value": 0.78}, "Better than the cells alone?", "amber"),
        ({"value": 0.79, "width": 0.0}, "Better than the cells alone?", "amber"),
        ({"value": 0.7}, "Better than the cells alone?", "red"),
        ({"p": (0.0, 0.0)}, "Collapsed?", "red"),
        ({"p": (0.0, 0.0), "direct": ("A",)}, "Collapsed?", "amber"),
        ({"p": (0.95, 0.4, 0.6, 0.2)}, "Collapsed?", "amber"),
        ({"coverage": (0.7, 9)}, "Do intervals hold?", "amber"),
        ({"coverage": (np.nan, 0)}, "Do intervals hold?", "amber"),
    ],
)
def test_each_light_has_its_reason(changed, question, light):
    table = judged(**changed)
    assert own.worst(table) == light and own.in_short(table).startswith(f"The model is {light}: read")
    assert question is None or table["light"].drop(question).eq("green").all() and table.loc[question, "light"] == light


def test_models_of_guides_are_scored_on_targets(cells):
    data = read(cells)
    train, _, test = data.split(samslib.splits.random(seed=0))
    truth = samslib.data_effects(data)
    wrong = truth.copy()
    wrong.X = truth.X[::-1].copy()
    table = own.target_scores({"right": truth, "wrong": wrong}, train, test, ())["correlation"]
    assert table.index[0] == "right" and table["right"] > 0.95 and table["data: training cells"] > 0.9 > table["wrong"]


def test_what_a_model_leaves_open_is_told_of_targets_too(cells):
    data = read(cells)
    effects = samslib.data_effects(data)
    effects.layers["posterior_variance"] = np.full(effects.shape, 0.04)
    effects.layers["posterior_variance"][list(effects.obs_names).index("P03_a")] = 0.16
    sd = own.model_sd(effects, data)
    assert sd["P03"] == pytest.approx(0.3) and sd["P04"] == pytest.approx(0.2)
    seen = samslib.data_effects(own.of_targets(data))
    assert own.beside_data(seen, seen, [], sd).set_index("perturbation").loc["P03", "model sd"] == pytest.approx(0.3)


def test_the_parts_of_combinations_are_what_masks_are_asked_of():
    adata = samslib.simulate.perturb_seq(singles=3, pairs=2, cells=5, controls=20, genes=12, latent=4, seed=0)
    data = PerturbationData.from_anndata(adata)
    pair = own.pairs_of(data)[0]
    assert own.parts(data, [pair, pair.split("+")[0]]) == pair.split("+")


def test_where_model_and_cells_part_it_is_said(cells):
    seen = samslib.data_effects(own.of_targets(read(cells)))
    wrong = seen.copy()
    wrong.X[list(wrong.obs_names).index("P03")] = 0
    wrong.X[list(wrong.obs_names).index("P01")] *= 3
    table = own.beside_data(wrong, seen, ["P01", "P03", "P06"]).set_index("perturbation")
    assert (
        table.loc["P03", "note"]
        and table.loc["P01", "note"]
        and not table.loc["P06", "note"]
        and not table.loc["P00", "note"]
    )


# --- axes, gene sets, states -------------------------------------------------------------------------------


def test_axes_list_who_is_surely_on_them_and_which_genes_go_along():
    on = pd.DataFrame({"x": [0.99, 0.95, 0.5], "y": [0.0, 0.0, 0.2]}, ["A", "B", "C"])
    shift = pd.DataFrame({"x": [1.0, 2.0, 0.0], "y": 0.0}, ["A", "B", "C"])
    effects = pd.DataFrame({"g": [3.0, 6.0, 0.0], "h": [-1.0, -2.0, 5.0]}, ["A", "B", "C"])
    moves = own.axis_genes(shift, effects)
    assert moves.loc["x"].tolist() == [3, -1]
    (row,) = own.axes(on, moves).to_dict("records")
    assert row["axis"] == "x" and row["perturbations"] == "A, B" and row["undecided"] == 1
    assert row["up"].startswith("g") and row["down"].startswith("h")


def test_gene_sets_are_tested_against_the_measured_genes(tmp_path):
    genes = [f"G{i}" for i in range(40)]
    moves = pd.DataFrame([np.r_[np.full(10, 3.0), np.zeros(30)] + np.arange(40) / 1e3], ["x"], genes)
    gmt = tmp_path / "sets.gmt"
    lines = [["in", "text", *genes[:5], "absent"], ["out", "", *genes[20:26]], ["small", "", *genes[:2]]]
    gmt.write_text("\n".join("\t".join(line) for line in lines))
    table = own.enrichment(moves, own.read_gmt(str(gmt)), top=10).set_index("set")
    assert list(table.index) == ["in"] and table.loc["in", ["both", "measured"]].tolist() == [5, 5]
    assert table.loc["in", "p"] == pytest.approx(hypergeom.pmf(5, 40, 5, 10))
    assert table.loc["in", "fdr"] == pytest.approx(2 * table.loc["in", "p"]), "of two sets that were tested"
    gmt.write_text("no tabs")
    with pytest.raises(DataError, match="is no GMT file"):
        own.read_gmt(str(gmt))
    with pytest.raises(DataError, match="There is no file other.gmt"):
        own.read_gmt("other.gmt")


def test_a_probe_tells_what_a_state_holds_and_nothing_from_noise():
    rng = np.random.default_rng(0)
    label = np.repeat(["A", "B", "C"], 300).astype(object)
    basal = rng.normal(size=(900, 30))
    full = np.hstack([basal, 4 * (label[:, None] == ["A", "B", "C"]) + basal[:, :3]])
    told = own.leakage({"basal state": basal, "full state": full}, label, seed=0)
    assert own.leak_in_words(told).startswith("No leak seen")
    assert own.leak_in_words(told.set_axis(told.index[::-1])).startswith("The basal state leaks")
    assert told.loc["full state", "told"] > 0.9
    assert abs(told.loc["basal state", "told"] - 1 / 3) < 0.05  # 3 standard errors, beyond in 1 of 300 seeds


# --- pairs -------------------------------------------------------------------------------------------------


def test_an_interval_of_ratios_holds_as_often_as_it_says():
    rng, holds = np.random.default_rng(0), []
    for n, level in ((7, 0.9), (40, 0.8)):
        for _ in range(2000):
            *known, new = rng.lognormal(size=n + 1)
            low, high, says = own.ratio_interval(pd.Series(known), level)
            holds.append(low <= new <= high)
        hits = sum(holds[-2000:])
        assert binom.cdf(hits, 2000, says) > 1e-4 and binom.sf(hits - 1, 2000, says) > 1e-4  # two-sided, 1 in 5,000
    assert says >= 0.8


def test_pairs_held_out_are_seen_against_controls_that_no_sum_has_used(monkeypatch):
    adata = samslib.simulate.perturb_seq(singles=4, pairs=3, cells=30, controls=90, genes=20, latent=4, seed=2)
    parts, effects = [], samslib.data_effects
    monkeypatch.setattr(samslib, "data_effects", lambda data, **options: parts.append(data) or effects(data, **options))
    own.held_out_pairs(PerturbationData.from_anndata(adata), samslib.FitConfig(steps=2, progress=False), seed=0)
    seen, trained = (set(part.cells[part.n_perturbations == 0]) for part in parts)
    assert len(seen) > 20 and len(trained) > 20 and not seen & trained


def test_unseen_pairs_are_ranked_by_what_pairs_held_out_were_worth():
    adata = samslib.simulate.perturb_seq(singles=6, pairs=10, cells=40, controls=160, genes=30, latent=4, seed=2)
    data = PerturbationData.from_anndata(adata)
    shown = own.pairs_of(data)
    held = own.held_out_pairs(data, samslib.FitConfig(steps=30, progress=False), seed=0)
    assert len(held) == 5 and set(held.index) < set(shown)
    few = data[~np.isin(data.labels, shown[3:])]
    assert set(own.held_out_pairs(few, samslib.FitConfig(steps=2, progress=False), seed=0).index) == set(shown[:3])
    assert np.allclose(held["sum_ratio"] * held["sum"], held["seen"])
    wanted = own.unseen_pairs(data, sorted(data.perturbations))
    assert len(wanted) == 15 - len(shown) and not set(wanted) & set(shown)
    effects = samslib.data_effects(data)[shown[: len(wanted)]].copy()  # stands in for what a model says
    effects.obs_names = wanted
    alone = samslib.data_effects(data).to_df()
    for by, correlation in (("model", 1.0), ("sum", -1.0)):
        table, words = own.ranked_pairs(data, effects, held.assign(model_correlation=correlation), 0.9, ["P01"])
        assert f"by the {by}:" in words and "intervals hold 67%" in words
        assert (table["low"] <= table["high"]).all() and table["size"].is_monotonic_decreasing
        assert np.allclose(table["size"], table[by] * held[f"{by}_ratio"].median())
    assert all((row["doubted"] == "P01") == ("P01" in row["pair"].split("+")) for _, row in table.iterrows())
    first = table.iloc[0]
    assert first["sum"] == pytest.approx(np.sqrt((alone.loc[first["pair"].split("+")].sum() ** 2).mean()))


# --- the recorded reports ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tapseq", "norman"])
def test_recorded_reports_are_linked_need_no_network_and_say_where_they_are_from(name):
    path = ROOT / "book" / "reports" / f"{name}.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path.stat().st_size < 1.5e6 and not page.faults and page.links == []
    assert page.loads and all(url.startswith("data:") for url in page.loads) and "<script" not in text
    assert re.search(r"<th>commit</th>\s*<td>[0-9a-f]{40}</td>", text), "of a clean commit"
    assert re.search(r"<th>data_sha256</th>\s*<td>[0-9a-f]{64}</td>", text)
    assert f"adata_path=&#x27;{name}.h5ad&#x27;" in text or f"adata_path='{name}.h5ad'" in text
    assert "The model is amber:" in text and ("Not shown: the lights above say why." in text) == (name == "tapseq")
    assert f'href="reports/{name}.html"' in (ROOT / "book" / "introduction.md").read_text(encoding="utf-8")
    chapter = nbformat.read(report.chapter(), 4)
    assert f'href="../book/reports/{name}.html"' in chapter.cells[0].source
