"""The printed book: its pages in order, numbered, with open solutions and whole lines of code."""

import pytest
from pypdf import PdfReader
from samsbook import browser, pdf

PAGE = """<html><head><meta charset="utf-8"><title>{name} — Book</title></head>
<body><article class="bd-article"><h1>{name}</h1>
<details><summary>Solution</summary><p>The answer of {name}.</p></details>
<pre style="width: 300px; overflow: hidden">{code}</pre><a href="other.html">elsewhere</a></article></body></html>"""
CODE = "long = " + " + ".join(f"part{i}" for i in range(60)) + " + the_end"


@pytest.mark.skipif(not browser.find(), reason=f"there is no browser: none of {', '.join(browser.NAMES)}")
def test_pages_are_printed_in_order_with_open_solutions_and_no_cut_line(tmp_path):
    site = tmp_path / "_build" / "html" / "chapters"
    site.mkdir(parents=True)
    (tmp_path / "_toc.yml").write_text(
        "root: chapters/front\nparts:\n- chapters:\n  - file: chapters/one\n    sections:\n    - file: chapters/two\n"
    )
    names = pdf.pages(tmp_path)
    assert names == ["chapters/front", "chapters/one", "chapters/two"]
    with pytest.raises(FileNotFoundError, match="chapters/front was not built: run `make book` first"):
        pdf.write(tmp_path, names)
    for name in names:
        (site / f"{name.split('/')[1]}.html").write_text(PAGE.format(name=name, code=CODE))
    book = PdfReader(pdf.write(tmp_path, names))
    assert [item.title for item in book.outline] == names and len(book.pages) == 3
    for name, page in zip(names, book.pages, strict=True):
        text = page.extract_text()
        assert f"The answer of {name}." in text.replace("\n", " ") and "the_end" in text
        assert not any("/URI" in (link.get_object().get("/A") or {}) for link in page.get("/Annots", []))
