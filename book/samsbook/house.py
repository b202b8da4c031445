"""The library's rooms, measured and drawn from its source.

python -m samsbook.house    writes the picture and the table of the page on architecture
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE, TABLE = Path("book/assets/house.svg"), Path("book/assets/house.md")
VOCABULARY = "vocabulary"  # the room of every module in the library's folder that has no room of its own
IDEAS = {
    "vocabulary": "what a model is: conditions, distributions, the trace, the contract, networks, bounds",
    "models": "one file a model; each is two short programs over a trace",
    "data": "from an AnnData to the batches that a model reads",
    "datasets": "simulated and published screens, by name",
    "alignment": "cells meet a model by the names of genes and perturbations",
    "checkpoint": "models and unfinished runs on disk, without pickle",
    "training": "one loop that fits every model",
    "evaluate": "what a trained model says, and how good it is",
    "official": "the published implementation's names, mapped to ours",
    "plotting": "one function a figure, from a table",
}
WIDTH, BOX, HEIGHT, GAP = 360, 82, 42, 34  # of the picture and its boxes, in pixels of a phone
PAPER, INK, FILL, LINE = "#fdfdfb", "#222", "#eaf2f8", "#777"
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip


def room_of(module: str) -> str:
    """The room of a module such as `samslib.data.names`."""
    first = module.split(".")[1]
    return first if first in IDEAS else VOCABULARY


@dataclass(frozen=True)
class Source:
    """One module of the library: its text, and where it stands."""

    path: Path
    package: tuple[str, ...]  # that relative imports start from

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def code(self) -> set[int]:
        """Numbers of the lines that hold code: no docstring, comment or blank."""
        text = self.path.read_text(encoding="utf-8")
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in NOT_CODE]
        lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(self.tree):
            if isinstance(node, documented) and ast.get_docstring(node) is not None:
                lines -= _lines(node.body[0])
        return lines

    def lengths(self, *kinds: type[ast.AST]) -> dict[str, int]:
        """Lines of code of each definition of these kinds, by name and line."""
        found = (node for node in ast.walk(self.tree) if isinstance(node, kinds))
        return {f"{self.path.name}:{node.lineno} {node.name}": len(self.code & _lines(node)) for node in found}  # type: ignore[attr-defined]

    def imports(self, known: Mapping[str, Source]) -> set[str]:
        """The modules of the library that it imports, wherever in it, but for `samslib` itself."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = self.package[: len(self.package) - node.level + 1] if node.level else ()
                source = ".".join([*above, *([node.module] if node.module else [])])
                found |= {f"{source}.{alias.name}" for alias in node.names} & set(known) or {source}
        return {name for name in found if name.startswith("samslib.")}


def _lines(node: ast.AST) -> set[int]:
    return set(range(node.lineno, node.end_lineno + 1))  # type: ignore[attr-defined]


def sources(root: Path = ROOT) -> dict[str, Source]:
    """The library's modules by name, in alphabetical order; commands (`__main__`) are left out."""
    found = {}
    for path in sorted((root / "samslib").rglob("*.py")):
        if path.name != "__main__.py":
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = Source(path, parts[:-1])
    return found


def depths(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Length of the longest chain of arrows that starts at each node.

    Raises
    ------
    ValueError
        If arrows run in a circle.
    """
    known: dict[str, int] = {}
    while len(known) < len(graph):
        ready = [name for name, needs in graph.items() if name not in known and needs <= set(known)]
        if not ready:
            raise ValueError(f"These import each other in a circle: {sorted(set(graph) - set(known))}.")
        known |= {name: 1 + max((known[need] for need in graph[name]), default=-1) for name in ready}
    return known


@dataclass(frozen=True)
class House:
    """What the source says of the library.

    Parameters
    ----------
    lines
        Lines of code of each room; docstrings, comments and blank lines are not counted.
    modules
        The modules that each module imports.
    rooms
        The rooms that each room imports from.
    functions, classes
        Lines of code of each function and class.
    total
        Lines of code of the whole library.
    """

    lines: dict[str, int]
    modules: dict[str, set[str]]
    rooms: dict[str, set[str]]
    functions: dict[str, int]
    classes: dict[str, int]
    total: int


def measure(root: Path = ROOT) -> House:
    """Read the library's source.

    Parameters
    ----------
    root
        The folder that holds `samslib`.

    Returns
    -------
    House
        Sizes and arrows.
    """
    known = sources(root)
    total = sum(len(source.code) for source in known.values())
    inside = {name: source for name, source in known.items() if name != "samslib"}
    modules = {name: source.imports(known) for name, source in inside.items()}
    lines, rooms = dict.fromkeys(IDEAS, 0), {room: set[str]() for room in IDEAS}
    functions, classes = dict[str, int](), dict[str, int]()
    for name, source in inside.items():
        room = room_of(name)
        lines[room] += len(source.code)
        rooms[room] |= {room_of(other) for other in modules[name]} - {room}
        functions |= source.lengths(ast.FunctionDef, ast.AsyncFunctionDef)
        classes |= source.lengths(ast.ClassDef)
    return House(lines, modules, rooms, functions, classes, total)


def _about(lines: int) -> int:
    """To the nearest fifty, so that a page need not follow every edit."""
    return max(50, round(lines / 50) * 50)


def _floors(house: House) -> list[list[str]]:
    """The rooms of each depth, the deepest first, and each above what it imports where that can be had."""
    depth, place = depths(house.rooms), dict[str, float]()
    floors = defaultdict(list)
    for room in sorted(house.rooms, key=lambda room: depth[room]):
        floors[depth[room]].append(room)
    for level in sorted(floors):
        below = {room: [place[need] for need in house.rooms[room] if need in place] for room in floors[level]}
        floors[level].sort(key=lambda room: sum(below[room]) / max(1, len(below[room])))
        place |= {room: (i + 0.5) / len(floors[level]) for i, room in enumerate(floors[level])}
    return [floors[level] for level in sorted(floors, reverse=True)]


def table(house: House) -> str:
    """The rooms as a Markdown table, from the ground up, and how long chains of imports are."""
    head = ["| room | lines | its one idea | imports |", "|---|---|---|---|"]
    rows = [
        f"| {room} | {_about(house.lines[room])} | {IDEAS[room]} | {', '.join(sorted(house.rooms[room])) or '-'} |"
        for floor in reversed(_floors(house))
        for room in floor
    ]
    depth = max(depths(house.modules).values())
    return "\n".join([*head, *rows, "", f"The longest chain of imports between modules has {depth} steps.\n"])


def picture(house: House) -> str:
    """The rooms as an SVG: each stands above what it imports. An arrow that follows from others is not drawn."""
    floors = _floors(house)
    height = 20 + len(floors) * HEIGHT + (len(floors) - 1) * GAP
    corner = {
        room: (round((i + 0.5) * WIDTH / len(floor) - BOX / 2), 10 + level * (HEIGHT + GAP))
        for level, floor in enumerate(floors)
        for i, room in enumerate(floor)
    }
    arrows = []
    for room, needs in house.rooms.items():
        for need in sorted(needs - _reached(house.rooms, needs)):
            (x, y), (to_x, to_y) = corner[room], corner[need]
            line = f'<line x1="{x + BOX // 2}" y1="{y + HEIGHT}" x2="{to_x + BOX // 2}" y2="{to_y - 2}"/>'
            arrows.append(line)
    boxes = [
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="7" fill="{FILL}" stroke="{INK}"/>\n'
        f'<text x="{x + BOX // 2}" y="{y + 18}" font-weight="bold">{room}</text>\n'
        f'<text x="{x + BOX // 2}" y="{y + 34}">{_about(house.lines[room])}</text>'
        for room, (x, y) in corner.items()
    ]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" text-anchor="middle"',
        '     font-family="\'Helvetica Neue\', Arial, sans-serif" font-size="13">',
        "<title>The rooms of the library, with their lines of code</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">',
        f'<path d="M0 0 L10 5 L0 10 z" fill="{LINE}"/></marker></defs>',
        "<!-- its own light ground, so that the picture reads the same on a dark page -->",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="10" fill="{PAPER}" stroke="#b8b8b0"/>',
        f'<g stroke="{LINE}" stroke-width="1.5" marker-end="url(#tip)">', *arrows, "</g>",
        f'<g fill="{INK}">', *boxes, "</g>", "</svg>\n",
    ])  # fmt: skip


def _reached(rooms: Mapping[str, set[str]], start: set[str]) -> set[str]:
    """What is below the rooms of `start`."""
    below = {need for room in start for need in rooms[room]}
    return below | _reached(rooms, below) if below else below


def main(root: Path = ROOT) -> int:
    """Write the picture and the table. Returns the exit status."""
    house = measure(root)
    (root / PICTURE).write_text(picture(house), encoding="utf-8")
    (root / TABLE).write_text(table(house), encoding="utf-8")
    print(f"{PICTURE} and {TABLE}: {house.total} lines of code in {len(house.rooms)} rooms.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
