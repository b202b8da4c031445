"""The built site in a browser of the system: served from this machine, and nothing else is reached."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Where a browser of the Chromium family is; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def opened(site: Path) -> Iterator[tuple[Any, str]]:
    """A browser, and the address under which the folder is served to it.

    Parameters
    ----------
    site
        The folder of pages.

    Yields
    ------
    tuple
        Playwright's browser, and the address with a slash at its end.

    Raises
    ------
    RuntimeError
        If there is no browser.
    """
    from playwright.sync_api import sync_playwright

    if not (path := find()):
        raise RuntimeError(f"There is no browser; install one of {', '.join(NAMES)}.")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            try:
                yield browser, f"http://127.0.0.1:{server.server_port}/"
            finally:
                browser.close()
                server.shutdown()
