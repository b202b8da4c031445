"""A progress bar that is one line in a terminal, one line in a notebook's saved output, and few lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


class _Lines:
    """A file that hands on whole lines, without the carriage returns that a terminal needs."""

    def __init__(self, show: Callable[[str], Any]):
        self.show = show

    def write(self, text: str) -> None:
        if text.strip():
            self.show(text.strip())

    def flush(self) -> None: ...


class Progress(tqdm):
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
        rare = {"mininterval": 0, "maxinterval": 1e9, "miniters": max(1, total // 10)}
        where = _where(rare) if shown else {}
        super().__init__(total=total, initial=done, disable=not shown, unit="step", ncols=100, **where)

    def advance(self) -> None:
        """Count one step."""
        self.update()

    def note(self, numbers: dict[str, float]) -> None:
        """Show "loss" and "val_loss" beside the bar, from its next drawing on.

        Parameters
        ----------
        numbers
            Values by name; other names are not shown.
        """
        shown = {k: f"{numbers[k]:.2f}" for k in ("loss", "val_loss") if k in numbers}
        self.set_postfix(shown, refresh=False)


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
    return tqdm(desc=name, total=1, unit="B", unit_scale=True, ncols=100, **_where({"mininterval": 30}))


def _where(in_a_log: dict[str, Any]) -> dict[str, Any]:
    """Options of a bar for the place that it is drawn in; those of a log depend on what is counted."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if type(shell).__name__ == "ZMQInteractiveShell":
        from IPython.display import display

        output: Any = display({"text/plain": ""}, raw=True, display_id=True)
        # Each line replaces the last, so that the saved page shows the end only.
        return {"file": _Lines(lambda line: output.update({"text/plain": line}, raw=True)), "mininterval": 0.5}
    if sys.stderr.isatty():
        return {}
    return {"file": _Lines(lambda line: print(line, file=sys.stderr, flush=True)), **in_a_log}
