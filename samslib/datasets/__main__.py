"""`python -m samslib.datasets regenerate [folder]` draws the simulated data sets again."""

import sys
from typing import Any

from samslib.datasets import REGENERATE, regenerate
from samslib.datasets.registry import sha256 as _sha256


def main(words: list[str]) -> Any:
    if words[:1] != ["regenerate"] or len(words) > 2:
        return f"usage: {REGENERATE} [folder]"
    for place in regenerate(*words[1:]).values():
        print(f"{_sha256(place)}  {place}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
