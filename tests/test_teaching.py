"""What the pages for teachers promise is there: exercises with solutions, commands that run, minutes that add up."""

import re
from collections import Counter

import nbformat
import pytest
from samsbook import said
from samsbook.parameters import declared
from test_layout import CHAPTERS, ROOT, cells

PAGE = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
EXERCISE = re.compile(r"^\*\*Exercise (\d+\.\d+) \((\w+)\)\.\*\*", re.M)


def text_of(path):
    return "\n".join(cell["source"] for cell in cells(path, "markdown"))


NUMBERS = {number for path in CHAPTERS for number, _ in EXERCISE.findall(text_of(path))}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_exercise_has_a_folded_solution_and_an_open_one_a_hint(path):
    text = text_of(path)
    pieces = EXERCISE.split(text)[1:]
    exercises = list(zip(*[iter(pieces)] * 3, strict=True))
    assert exercises and text.count("**Exercise ") == len(exercises), "written as **Exercise 2.3 (run).**"
    chapter = str(int(path.stem.split("_")[0]))
    assert [number for number, _, _ in exercises] == [f"{chapter}.{i + 1}" for i in range(len(exercises))]
    for number, kind, rest in exercises:
        assert kind in ("think", "run", "code", "open"), number
        folded = re.findall(r"^(`{3,})\{dropdown\} (\w+)\n(.*?)^\1$", rest, re.M | re.S)
        assert [title for _, title, _ in folded] == ["Hint" if kind == "open" else "Solution"], number
        assert len(folded[0][2].split()) >= 15, f"{number} says next to nothing"


def test_exercises_that_are_given_exist():
    named = " ".join(re.findall(r"Exercises? (\d+\.\d+(?:(?:, | and )\d+\.\d+)*)", PAGE))
    given = set(re.findall(r"\d+\.\d+", named))
    assert len(given) > 12 and given <= NUMBERS, given - NUMBERS


def test_every_chapter_has_its_goals():
    for path in CHAPTERS:
        assert re.search(rf"^\| (\{{doc\}}`)?{int(path.stem.split('_')[0])}\b", PAGE, re.M), path.stem


def test_sessions_last_as_long_as_they_say():
    sessions = re.findall(r"^(\d+) minutes, chapters.*?(?=^\*Homework)", PAGE, re.M | re.S)
    tables = re.findall(r"^\d+ minutes, chapters.*?(?=^\*Homework)", PAGE, re.M | re.S)
    assert sessions == ["90", "90"]
    for table in tables:
        assert sum(map(int, re.findall(r"^\| (\d+) \|", table, re.M))) == 90


def test_commands_are_of_chapters_and_parameters_that_exist():
    commands = re.findall(r"^python -m samsbook run (\S+)(.*)$", PAGE, re.M)
    assert len(commands) >= 3
    for chapter, words in commands:
        known = declared(ROOT / chapter)
        for name, value in re.findall(r'-p (\w+) (?:"([^"]*)"|(?:\S+))', words):
            assert name in known, f"{chapter}: {name}"
            if value:
                known[name].check(known[name].read(value))


def test_every_question_has_an_answer():
    questions = re.findall(r"^\*\*(\d+)\.\*\*.*?\n\n```\{dropdown\} Answer\n", PAGE, re.M | re.S)
    assert questions == [str(i + 1) for i in range(len(questions))] and len(questions) == PAGE.count(
        "{dropdown} Answer"
    )


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_goals_time_and_needs(path):
    title, *items = re.split(r"^- ", cells(path, "markdown")[0]["source"].split("\n\n**What")[0], flags=re.M)
    assert title.startswith("# ") and [item.split()[0] for item in items] == ["**Goals.**", "**Time.**", "**Needs.**"]
    goals, time, needs = items
    assert "After this chapter you can" in goals and re.search(r"\d+ minutes to read", time) and len(needs.split()) > 5


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_closes_with_takeaways_three_questions_and_reading(path):
    text = text_of(path)
    summary = text[text.index("\n## Summary\n") : text.index("\n## Exercises\n")]
    takeaways, rest = summary.split("\n### Check yourself\n")
    questions, reading = rest.split("\n### Further reading\n")
    assert len(re.findall(r"^- ", takeaways, re.M)) >= 4
    found = re.findall(r"^\*\*Question (\S+)\.\*\* \S.*?\n\n```\{dropdown\} Answer\n(.*?)^```$", questions, re.M | re.S)
    assert [label for label, _ in found] == [f"{int(path.stem.split('_')[0])}.{i}" for i in (1, 2, 3)]
    assert all(len(answer.split()) >= 15 for _, answer in found)
    known = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M)
    works = re.findall(r"^- \{cite:t\}`(\w+)`(.*(?:\n(?!- |\n).*)*)", reading, re.M)
    assert 2 <= len(works) <= 4 and {key for key, _ in works} <= set(known)
    assert all(len(why.split()) >= 5 for _, why in works), "a reference says what it is good for"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_an_aside_stands_in_the_margin_and_is_short(path):
    asides = re.findall(r"^```\{margin\}\n(.*?)^```$", text_of(path), re.M | re.S)
    assert 1 <= len(asides) <= 2 and all(len(aside.split()) <= 45 for aside in asides)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_sentence_quotes_three_numbers_at_most(path):
    """Tables carry the numbers. A mean and its half width count as one; small whole numbers and tables do not count."""
    for part in said.sections(nbformat.read(path, as_version=4)):
        for prose, cell in part.prose:
            told = prose.partition("\n\n")[0] if cell.cell_type == "code" else prose  # a caption, not the alt text
            for paragraph in said.paragraphs(re.sub(r"^\|.*$", "", told, flags=re.MULTILINE)):
                single = re.sub(r"\s*(±|\\pm)\s*[\d.]+", "", paragraph)
                counted = Counter(sentence for sentence, _ in said.quoted(single))
                assert not [sentence for sentence, numbers in counted.items() if numbers > 3]
