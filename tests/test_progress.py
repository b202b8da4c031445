from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from samslib.progress import Progress


def test_a_log_gets_few_whole_lines(capfd):
    with Progress(200) as bar:
        for i in range(200):
            bar.advance()
            if i % 50 == 0:
                bar.note({"loss": 3.14159, "val_loss": 2.0, "x": 1.0})
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert 8 <= len(lines) <= 14 and "\r" not in "".join(lines)
    assert "100%" in lines[-1] and "val_loss=2.00" in lines[-1]


def test_switched_off_is_silent(capfd):
    with Progress(10, shown=False) as bar:
        bar.advance()
    assert capfd.readouterr().err == ""


def test_a_notebook_keeps_one_line():
    code = "from samslib.progress import Progress\nwith Progress(50) as bar:\n    [bar.advance() for _ in range(50)];"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data" and output.data["text/plain"].count("\n") == 0
    assert "100%" in output.data["text/plain"] and "50/50" in output.data["text/plain"]
