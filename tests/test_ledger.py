"""The ledger's lines have verdicts of one vocabulary, their counts are true, their numbers those of the tables."""

import re
from collections import Counter

import pandas as pd
import pytest
from samsbook.published import relative_bound
from test_layout import ROOT

PAGE = (ROOT / "book" / "ledger.md").read_text(encoding="utf-8")
VERDICTS = ("reproduced", "partly", "differs", "not settled", "not run", "not at hand", "for the record")
PARTS = {"SAMS-VAE": "## SAMS-VAE: the model", "CPA": "## CPA\n", "CRADLE-VAE": "## CRADLE-VAE"}


def lines(text):
    """(claim, status, where, source) of each line of the tables that have these columns."""
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in re.findall(r"^\|.*\|$", text, re.M)]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [row for row in rows if len(row) == 4 and row[1] != "status" and not set(row[0]) <= set("-")]


def part(name):
    start = PAGE.index(PARTS[name])
    ends = [
        PAGE.index(other, start + 1) for other in [*PARTS.values(), "## Published tables"] if PAGE.find(other) > start
    ]
    return PAGE[start : min(ends)]


SECTIONS = {**{name: part(name) for name in PARTS}, "tables": PAGE[PAGE.index("## Published tables") :]}


def verdict(status):
    return next((word for word in VERDICTS if status.startswith(word)), status)


def test_every_line_has_a_verdict_and_says_where_it_was_tried():
    for claim, status, where, source in lines(PAGE):
        assert verdict(status) in VERDICTS, f"{claim[:60]}: {status[:40]}"
        assert len(claim) > 10
        assert where or verdict(status) in ("not run", "not at hand", "for the record"), claim
        assert source, claim


def counts():
    """The table of the page, as it should be."""
    found = {name: Counter(verdict(status) for _, status, _, _ in lines(text)) for name, text in SECTIONS.items()}
    head = ["| verdict | " + " | ".join(SECTIONS) + " |", "|---|" + "---:|" * len(SECTIONS)]
    body = [f"| {word} | " + " | ".join(str(found[name][word]) for name in SECTIONS) + " |" for word in VERDICTS]
    return "\n".join([*head, *body])


def test_the_counts_of_verdicts_are_true():
    assert counts() in PAGE, f"put this table into book/ledger.md:\n{counts()}"
    assert sum(map(len, map(lines, SECTIONS.values()))) == len(lines(PAGE)), "every line is counted"


@pytest.fixture(scope="module")
def published():
    frame = pd.read_csv(ROOT / "data" / "published" / "norman.csv")
    return frame.set_index(["task", "metric", "model", "unique", "fraction"])["mean"].sort_index()


@pytest.fixture(scope="module")
def small():
    rows = relative_bound(pd.read_csv(ROOT / "data" / "results" / "grid-devel-norman.csv"))
    rows["unique"] = rows["encoding"] == "unique"
    return rows.groupby(["task", "model", "unique", "fraction"]).mean(numeric_only=True)


PAIRS, FEW = "unseen combinations", "few cells of each"
BOUND, R, TOP = "relative test IWELBO", "ATE pearson", "ATE pearson, top 20"
SAMS, FIELD, CPA, COND = "SAMS-VAE", "SAMS-VAE, mean-field", "CPA-VAE", "conditional VAE"
MIDDLE = (0.25, 0.5, 0.75)


def test_what_the_published_tables_say_is_in_them(published):
    def of(task, metric, model, fraction, unique=False):
        return published[task, metric, model, unique, fraction]

    lead = [max(of(PAIRS, BOUND, m, f) for m in (SAMS, FIELD)) - of(PAIRS, BOUND, CPA, f) for f in MIDDLE]
    assert f"by {min(lead):.2f} to {max(lead):.2f} nats a cell" in PAGE
    zero = {model: of(PAIRS, BOUND, model, 0) for model in (SAMS, FIELD, CPA, COND)}
    assert max(zero, key=zero.get) == FIELD and f"{zero[FIELD] - zero[CPA]:.2f} nats above CPA-VAE" in PAGE
    assert f"{zero[CPA] - zero[SAMS]:.2f} below CPA-VAE" in PAGE
    lead = [of(PAIRS, R, SAMS, f) - of(PAIRS, R, CPA, f) for f in MIDDLE]
    assert f"by {min(lead):.3f} to {max(lead):.3f}; the mean-field one is below" in PAGE
    assert all(of(PAIRS, R, FIELD, f) < of(PAIRS, R, CPA, f) for f in MIDDLE)
    for task in (PAIRS, FEW):
        r = {model: of(task, R, model, 0) for model in (SAMS, FIELD, CPA, COND)}
        assert max(r, key=r.get) == COND
    assert f"in both tasks ({of(PAIRS, R, COND, 0):.2f} and {of(FEW, R, COND, 0):.2f})" in PAGE
    unseen = published.xs((PAIRS, R, True), level=("task", "metric", "unique"))
    unseen = unseen[unseen.index.get_level_values("fraction") < 1]
    assert f"correlations of {unseen.min():.2f} to {unseen.max():.2f}" in PAGE
    assert f"goes from {of(FEW, R, SAMS, 0):.2f} to {of(FEW, R, SAMS, 0.5):.2f} with half" in PAGE
    for f in (*MIDDLE, 1):
        assert max((of(FEW, BOUND, m, f), m) for m in (SAMS, FIELD, CPA, COND))[1] == SAMS
    best = [of(FEW, R, CPA, f, True) for f in (*MIDDLE, 1)]
    everything = published.xs((FEW, R), level=("task", "metric"))
    assert all(everything.xs(f, level="fraction").max() == b for f, b in zip((*MIDDLE, 1), best, strict=True))
    assert f"at 0.25 to 1 ({min(best):.2f} to {max(best):.2f})" in PAGE
    assert abs(of(FEW, BOUND, SAMS, 1) - of(FEW, BOUND, CPA, 1, True)) <= 0.015
    last = published.xs((PAIRS, BOUND, 1.0), level=("task", "metric", "fraction"))
    assert last.idxmax() == (CPA, True) and f"({last.max():.2f} against {last[SAMS, False]:.2f})" in PAGE
    assert f"fractions 0 and 0.25 ({of(PAIRS, TOP, COND, 0):.2f} and {of(PAIRS, TOP, COND, 0.25):.2f})" in PAGE


def test_our_small_grid_says_what_stands_beside_them(small):
    def of(task, column, model, fraction, unique=False):
        return small.loc[(task, model, unique, fraction), column]

    lead = [of(PAIRS, BOUND, SAMS, f) - of(PAIRS, BOUND, CPA, f) for f in (0, 0.5)]
    assert f"{lead[0]:.2f} above at fraction 0 and {-lead[1]:.2f} below at 0.5" in PAGE
    r = {(m, f): of(PAIRS, "pearson official", m, f) for m in (SAMS, CPA) for f in (0, 0.5)}
    assert f"small, {r[SAMS, 0]:.2f} against {r[CPA, 0]:.2f} at fraction 0, {r[SAMS, 0.5]:.2f} against" in PAGE
    cond, sums = ([of(t, "pearson official", m, 0) for t in (PAIRS, FEW)] for m in (COND, "additive"))
    assert f"({cond[0]:.2f} and {cond[1]:.2f}), and sums of single effects the highest ({sums[0]:.2f} and" in PAGE
    assert f"the highest ({sums[0]:.2f} and {sums[1]:.2f})" in PAGE
    unseen = small.loc[PAIRS].xs(True, level="unique")["pearson official"]
    assert f"small: {unseen.min():.2f} to {unseen.max():.2f}" in PAGE
    assert "small: from {:.2f} to {:.2f}".format(*(of(FEW, "pearson official", SAMS, f) for f in (0, 0.5))) in PAGE
    lead = [of(FEW, BOUND, SAMS, 0.5) - of(FEW, BOUND, m, 0.5) for m in (CPA, COND)]
    assert f"above CPA-VAE by {lead[0]:.2f} nats and above the conditional VAE by {lead[1]:.2f}" in PAGE
    top = [of(PAIRS, "pearson_top20 official", m, 0) for m in (COND, SAMS, "additive")]
    assert "at 0 it has {:.2f}, SAMS-VAE {:.2f}, sums of single effects {:.2f}".format(*top) in PAGE


def test_the_numbers_of_cpa_are_those_of_their_recorded_runs():
    scores = pd.read_csv(ROOT / "data" / "results" / "scores-small.csv")
    chosen = scores[(scores["reference"] == "official") & (scores["score"] == "pearson")]
    pooled = chosen[chosen["perturbation"] == "pooled"].set_index("model")["value"]
    assert f"(pooled r of effects {pooled['additive']:.2f} against {pooled['cpa']:.2f})" in PAGE
    differences = (ROOT / "book" / "differences.md").read_text(encoding="utf-8")  # which test_doses ties to its table
    for row, said in [
        ("CPA, network", "0.47 ± 0.08 with a network"),
        ("CPA, sigm", "0.64 ± 0.16 with a sigmoid"),
        ("interpolation, log dose", "interpolation between the doses beside it 0.35 ± 0.07"),
        ("SAMS-VAE, logsigmoid", "SAMS-VAE with an inferred curve 0.30 ± 0.05"),
    ]:
        number = re.search(r"\d\.\d\d ± \d\.\d\d", said)[0]
        assert said in PAGE and f"| {row} | {number} |" in differences
