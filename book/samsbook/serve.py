"""Show the book in a browser while it is written: a saved page is built again and reloads by itself.

python -m samsbook.serve [--port 8000]

Only what changed is run and read. A build that fails is told in the terminal, and the pages stay as they were.
"""

from __future__ import annotations

import argparse
import threading
import time
import webbrowser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from samsbook import build

RELOAD = b"""<script>
let seen; setInterval(async () => {
  const now = await (await fetch("/.stamp", {cache: "no-store"})).text();
  if (seen && now !== seen) location.reload(); seen = now;
}, 500);
</script>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves the built pages, each with a script that asks whether they were built anew."""

    def __init__(self, *arguments, stamp: dict[str, float], **options):
        self.stamp = stamp
        super().__init__(*arguments, **options)

    def log_message(self, *_) -> None:
        """Nothing: what is built is told in the terminal, not what is read."""

    def do_GET(self) -> None:
        """The stamp of the last build, a page with the script, or any other file."""
        place = Path(self.translate_path(self.path))
        page = place / "index.html" if place.is_dir() else place
        if self.path == "/.stamp":
            self.answer("text/plain", str(self.stamp["built"]).encode())
        elif page.suffix == ".html" and page.is_file() and (self.path.endswith("/") or not place.is_dir()):
            self.answer("text/html; charset=utf-8", page.read_bytes().replace(b"</body>", RELOAD + b"</body>", 1))
        else:
            super().do_GET()

    def answer(self, kind: str, body: bytes) -> None:
        """Send a whole body."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def watch(root: Path, stamp: dict[str, float], stop: threading.Event, every: float = 0.5) -> None:
    """Build again whenever a source of the book has changed, until told to stop.

    Parameters
    ----------
    root
        The book's folder.
    stamp
        Its entry "built" becomes the time of the last good build.
    stop
        Ends the watch when set.
    every
        Seconds between two looks.
    """
    seen = times(root)
    while not stop.wait(every):
        if (now := times(root)) != seen:
            seen, start = now, time.perf_counter()
            if build.main(["--quick"], root) == 0:
                stamp["built"] = time.time()
                print(f"Shown anew after {time.perf_counter() - start:.0f} s.", flush=True)


def times(root: Path) -> dict[Path, int]:
    """When each source of the book was last written."""
    paths = {path for pattern in build.SOURCES for path in root.glob(pattern) if "__pycache__" not in path.parts}
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def main() -> None:
    """Build, serve, and watch until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    build.main([])
    stamp, stop = {"built": time.time()}, threading.Event()
    handler = partial(Handler, stamp=stamp, directory=build.ROOT / "_build" / "html")
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"The book is at http://localhost:{port} and follows what you save (Ctrl-C stops it)", flush=True)
        threading.Thread(target=webbrowser.open, args=(f"http://localhost:{port}",), daemon=True).start()
        try:
            watch(build.ROOT, stamp, stop)
        except KeyboardInterrupt:
            server.shutdown()


if __name__ == "__main__":
    main()
