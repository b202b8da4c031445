"""A progress bar that is one line in a terminal, one line in a notebook's saved output, and few lines in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class _NotebookLine:
    """A file whose every write replaces the last in one notebook output, so that the saved page shows the end only."""

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        if text.strip():
            self._handle.update({"text/plain": text.strip()}, raw=True)

    def flush(self) -> None: ...


class _LogLines:
    """A file that turns carriage returns into new lines."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


class Progress:
    """A progress bar of steps: `with Progress(total) as bar: bar.advance(); bar.note({"val_loss": ...})`.

    Parameters
    ----------
    total
        Number of steps.
    shown
        Whether anything is drawn.
    done
        Number of steps that were made before.
    """

    def __init__(self, total: int, shown: bool = True, done: int = 0):
        options: dict[str, Any] = {"total": total, "initial": done, "disable": not shown, "unit": "step", "ncols": 100}
        rare = {"mininterval": 0, "maxinterval": 1e9, "miniters": max(1, total // 10)}
        self._bar = tqdm(**options, **(_where(rare) if shown else {}))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *problem: Any) -> None:
        self._bar.close()

    def advance(self) -> None:
        """Count one step."""
        self._bar.update()

    def note(self, numbers: dict[str, float]) -> None:
        """Show "loss" and "val_loss" beside the bar, from its next drawing on.

        Parameters
        ----------
        numbers
            Values by name; other names are not shown.
        """
        shown = {k: f"{numbers[k]:.2f}" for k in ("loss", "val_loss") if k in numbers}
        self._bar.set_postfix(shown, refresh=False)


def download_bar(name: str) -> tqdm:
    """A bar of bytes, whose total the downloader sets once the server has answered.

    Parameters
    ----------
    name
        Name of the file, shown before the bar.

    Returns
    -------
    tqdm
        The bar, to be closed by the caller.
    """
    options: dict[str, Any] = {"desc": name, "total": 1, "unit": "B", "unit_scale": True, "ncols": 100}
    return tqdm(**options, **_where({"mininterval": 30}))


def _where(in_a_log: dict[str, Any]) -> dict[str, Any]:
    """Options of a bar for the place that it is drawn in; those of a log depend on what is counted."""
    if _in_notebook():
        return {"file": _NotebookLine(), "mininterval": 0.5}
    return {} if sys.stderr.isatty() else {"file": _LogLines(), **in_a_log}


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
