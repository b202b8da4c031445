"""Read the built book as a browser would: links resolve, nothing is fetched, pictures are described.

python -m samsbook.check_html _build/html
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}
LOADING_LINKS = {
    "stylesheet",
    "icon",
    "shortcut",
    "preload",
    "modulepreload",
    "preconnect",
    "dns-prefetch",
    "manifest",
}
STYLE_URL = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""")
NO_DESCRIPTION = re.compile(r"[0-9a-f]{16,}|\.(png|svg|jpe?g|gif)$|^(image|figure|plot)?$", re.IGNORECASE)
BROKEN = {
    "katex-error": "an equation that KaTeX cannot read",
    "problematic": "a reference that was not resolved",
    "system-message": "a message of the parser",
}


class Page(HTMLParser):
    """What one page offers (ids), asks for (links, loads) and gets wrong (faults)."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.faults: list[str] = []
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.ids.update(has[key] for key in ("id", "name") if key in has and tag != "meta")
        if tag == "a" and "href" in has:
            self.links.append(has["href"])
        if tag == "link" and LOADING_LINKS & set(has.get("rel", "").split()):
            self.loads.append(has.get("href", ""))
        if LOADS.get(tag) in has:
            self.loads.append(has[LOADS[tag]])
        self.loads += STYLE_URL.findall(has.get("style", ""))
        self._style = tag == "style"
        if tag == "meta" and has.get("http-equiv", "").lower() == "refresh" and "url=" in has.get("content", ""):
            self.links.append(has["content"].split("url=")[1])
        if tag == "img" and NO_DESCRIPTION.search(has.get("alt", "").strip()):
            self.faults.append(f"picture {has.get('src', '')[:80]!r} has no real alt text, only {has.get('alt', '')!r}")
        self.faults += [why for name, why in BROKEN.items() if name in has.get("class", "").split()]

    def handle_data(self, data: str) -> None:
        if self._style:
            self.loads += STYLE_URL.findall(data)
            self._style = False


def problems(site: Path) -> list[str]:
    """One line a defect of the built site, as `page: what is wrong`; an empty list when there is none."""
    written = [path for path in site.rglob("*.html") if path.relative_to(site).parts[0] != "_static"]
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in written}
    if not pages:
        return [f"{site.name}: there are no pages; build the book first"]
    found = []
    for path, page in pages.items():
        here = path.relative_to(site.resolve())
        found += [f"{here}: {fault}" for fault in page.faults]
        found += [f"{here}: {why}" for url in page.loads if (why := _unloadable(path, url))]
        found += [f"{here}: {why}" for url in page.links if (why := _broken(path, url, pages))]
    for sheet in site.rglob("*.css"):
        urls = STYLE_URL.findall(sheet.read_text(encoding="utf-8", errors="replace"))
        found += [f"{sheet.relative_to(site)}: {why}" for url in urls if (why := _unloadable(sheet, url))]
    return sorted(set(found))


def _unloadable(page: Path, url: str) -> str | None:
    """Why a page cannot load this without a network, if so."""
    parts = urlsplit(url)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return f"loads {url} from the network"
    return None if (page.parent / unquote(parts.path)).exists() else f"loads {url}, which is not there"


def _broken(page: Path, url: str, pages: dict[Path, Page]) -> str | None:
    """Why a link leads nowhere, if so; addresses outside the book are not followed."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.exists():
        return f"links to {url}, which is not there"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].ids:
        return f"links to {url}, but that page has no #{anchor}"
    return None


if __name__ == "__main__":
    defects = problems(Path(sys.argv[1] if len(sys.argv) > 1 else "_build/html"))
    print(*defects, sep="\n") if defects else print("Every link resolves and nothing is loaded from the network.")
    sys.exit(bool(defects))
