"""Seconds that imports take in a new process, beside those of torch alone (`make bench`)."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

TORCH = "import torch"
TIMED = ("import samslib", "import samslib; samslib.SAMSVAE; samslib.fit", "import samslib; samslib.average_effects")


def seconds(code: str) -> float:
    """Wall-clock seconds of one line of Python in a new process, start-up included."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print the median seconds of each import and its ratio to that of torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind, which take turns")
    options = parser.parse_args()
    times: dict[str, list[float]] = {code: [] for code in (TORCH, *TIMED)}
    for _ in range(options.repeats):
        for code, kept in times.items():
            kept.append(seconds(code))
    medians = {code: statistics.median(kept) for code, kept in times.items()}
    print(f"{'in a new process':<50}{'s':>8}{'ratio':>8}")
    for code, took in medians.items():
        print(f"{code:<50}{took:>8.2f}{took / medians[TORCH]:>8.2f}")


if __name__ == "__main__":
    main()
