"""Numbers that prose quotes are those that the chapter shows."""

import pandas as pd
import pytest
import samsbook
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from samsbook import said, transfer
from samsbook.published import relative_bound
from test_layout import ROOT

TABLE = """<table><thead><tr><th></th><th>error</th></tr></thead><tbody>
<tr><th rowspan="2">guides</th><th>ruler</th><td>0.469</td></tr><tr><th>CPA</th><td>-0.614</td></tr></tbody></table>"""


def chapter(prose, allowed=None, caption=""):
    """A chapter of parameters, a section with a table, and another whose prose is given."""
    table = new_code_cell("errors.round(3)", outputs=[new_output("display_data", data={"text/html": TABLE})])
    printed = new_output("stream", text="1,920 cells, 28% of them bad\n")
    figure = {"figure": {"caption": caption, "name": "fig-one"}}
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("rate: float = 0.03  # not 0.77", metadata={"tags": ["parameters"]}),
        new_markdown_cell("## Elsewhere"),
        new_code_cell("print(2.5)", metadata={"mystnb": {"figure": {"name": "fig-else"}}}),
        new_markdown_cell(f"## Here\n\n{prose}", metadata={"said": allowed or {}}),
        table,
        new_code_cell("doses = (0.125, 10_000)", metadata={"mystnb": figure}, outputs=[printed]),
        new_markdown_cell("## Summary\n\nThe ruler errs by 0.47.\n\n### Check yourself\n\nWhat of 0.99?"),
        new_markdown_cell("## Exercises\n\nIn our run it was 0.98."),
    ]
    return new_notebook(cells=cells)


@pytest.mark.parametrize(
    "prose",
    [
        "The ruler has 0.47, and CPA 0.61.",  # as rounded as it is said
        "CPA has -0.614, where a minus is no matter.",
        "Of guides it is 0.614.",  # by a label of several rows
        "The rate is 0.03 and the dose 0.125 of 10,000.",  # parameters and literals
        "There are 1,920 cells, 28% bad, with 95% intervals.",
        "`0.77` is code, $x = 0.77$ a formula, {cite:t}`year0.77` a citation.\n\n    run -p rate 0.77\n",
        "```python\nx = 0.77\n```\n\n$$\nx = 0.77\n$$\n",
        "As {numref}`fig-else` has it, with `0.77`, 2.5.",
        "CPA comes last. It has 0.61.",  # of the rows that the paragraph names
        "All 3,375 cells, a number of book/data.md.",
    ],
)
def test_a_number_that_is_shown_passes(prose):
    assert said.unshown(chapter(prose), ROOT) == []


@pytest.mark.parametrize(
    "prose, number",
    [
        ("The ruler has 0.46.", "0.46"),
        ("CPA has 0.6141.", "0.6141"),  # sharper than the table
        ("Something has 0.47.", "0.47"),  # no word of the row
        ("CPA comes last. The ruler has 0.61.", "0.61"),  # of a row that another sentence names
        ("The rate is 0.77.", "0.77"),  # only a comment says so
        ("It is 2.5.", "2.5"),  # of another section
        ("It falls by $1.5 \\pm 0.125$.", "1.5"),
        ("There are 1,930 cells.", "1,930"),
        ("There are 193 cells, of 6 kinds.", "193"),
        ("Bad are 29%.", "29%"),
        ("```{margin}\nThe ruler has 0.46.\n```", "0.46"),
    ],
)
def test_a_number_that_is_not_shown_is_named_with_section_and_sentence(prose, number):
    (found,) = said.unshown(chapter(prose), ROOT)
    assert found.startswith(f"Here: nothing shown there gives the {number} of ") and found.endswith('."')


def test_captions_are_prose():
    (found,) = said.unshown(chapter("", caption="The ruler has 0.46."), ROOT)
    assert "the 0.46 of" in found


def test_a_number_from_elsewhere_is_allowed_with_its_source_and_no_longer_than_it_is_needed():
    prose, table = "They print 10.53 nats.", "data/published/norman.csv"
    assert said.unshown(chapter(prose, {"10.53": "their page"}), ROOT) == []
    (unused,) = said.unshown(chapter("Nothing.", {"10.53": "their page"}), ROOT)
    assert "allow 10.53, not said there" in unused
    assert said.unshown(chapter("They print 0.78.", {"0.78": f"{table}, fraction 1"}), ROOT) == []
    assert (
        len(said.unshown(chapter("They print 77.31.", {"77.31": table}), ROOT)) == 2
    )  # and the table has no such number


@pytest.mark.parametrize(
    "value, number, same",
    [
        (0.469, "0.47", True),
        (0.469, "0.46", False),
        (19_060, "19,000", True),
        (12_000, "10,000", False),
        (0.296, "30%", True),
        (0.306, "30.0%", False),
        (7, "7.0", True),
    ],
)
def test_values_round_to_what_is_written(value, number, same):
    assert said.rounds_to(value, number) is same


# What chapters say of recorded runs without a number.


def test_every_seed_has_the_order_of_chapter_4():
    long = samsbook.read_results("screen-long").query("mean_field_encoder != True")
    usual = long[(long["model"] == "SAMS-VAE") & (long["mask_prior"] == 0.01)].set_index("seed")["test IWELBO"]
    others = long[long["model"].isin(["CPA-VAE", "SVAE+", "conditional VAE"])]
    assert (others["test IWELBO"] < others["seed"].map(usual)).all() and len(others) == 15


def test_every_split_has_the_order_of_chapter_5():
    grid = relative_bound(samsbook.read_results("grid-devel-norman"))
    grid["run"] = grid["model"] + ", " + grid["encoding"]
    bound = grid.pivot(index=["task", "fraction", "split"], columns="run", values="test IWELBO")
    unseen, few = bound.loc["unseen combinations"], bound.loc["few cells of each"].loc[0.5]
    assert (unseen.idxmax(axis=1) == "SVAE+, unique").all()
    lead = few["SAMS-VAE, compositional"] - few["CPA-VAE, compositional"]
    assert lead.between(0, 0.25).all()
    published = pd.read_csv(ROOT / "data" / "published" / "norman.csv")
    published = published.query("task == 'unseen combinations' and not unique")
    means = published.pivot(index=["metric", "fraction"], columns="model", values="mean")
    assert (means.loc["relative test IWELBO"].idxmin(axis=1) == "conditional VAE").all()
    assert means.loc["ATE pearson"].loc[0].idxmax() == "conditional VAE"


def test_every_patient_has_the_order_of_chapter_6():
    table = samsbook.read_results("transfer-glioblastoma")
    r, energy = (table.pivot(index="withheld", columns="way", values=score) for score in ("pearson", "energy"))
    gain = r["CPA"] - r["CPA, no adversary"]
    assert (gain > 0).all() and gain.mean() == pytest.approx(0.09, abs=0.005)
    nearer = energy.lt(energy[transfer.NONE], axis=0).sum()
    joined = [f"{name}{transfer.JOINED}" for name in ("SAMS-VAE", "conditional VAE")]
    assert nearer["CPA"] == 4 and (nearer[joined] == 5).all()
