"""What a preset of the grid takes: runs, seconds a training step, device-hours and disk (`make cost`).

One training step of each kind of run is timed at its own sizes, on counts drawn at the shapes of its data, and
multiplied by steps and runs. On a CPU the seconds are those of one core, on a GPU those of the clock. Validation,
scores and the start of a run are not in it; the table of a finished grid has them (`seconds_scoring`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from samsbook import grid
from samsbook.bench import example
from samsbook.results import write_results
from samslib.cells import Plate, Pseudobulk
from samslib.models import BASELINES, CPAVAE, SAMSVAE, ConditionalVAE, SVAEPlus
from samslib.training import FitConfig, TrainingStep
from samslib.validation import choose_device

# Genes, perturbations, perturbations with every combination as its own; the ledger says where each number is from.
SHAPES = {"norman": (5000, 105, 105 + 132), "replogle": (1187, 722, 722)}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SAMS-VAE": (SAMSVAE, {}),
    "SAMS-VAE, mean-field": (SAMSVAE, {"posterior": "mean_field"}),
    "CPA-VAE": (CPAVAE, {}),
    "SVAE+": (SVAEPlus, {}),
    "conditional VAE": (ConditionalVAE, {}),
    "additive": (BASELINES["additive"], {}),
}
ROW_KB = 41  # a row with provenance, notebook and log: 72 of them took 2.9 MB


def seconds_a_step(p: dict[str, Any], shape: tuple[int, int], device: str, steps: int) -> float:
    """Median seconds of a step, forward, backward and Adam, for the parameters of one run.

    Parameters
    ----------
    p
        Parameters of the run, as a preset of the grid gives them.
    shape
        Numbers of genes and perturbations.
    device
        "cpu" or a CUDA device. On a CPU the seconds are those of one core, on a GPU those of the clock.
    steps
        Number of timed steps, after two to warm up.

    Returns
    -------
    float
        Seconds.
    """
    genes, perturbations = shape
    summary, batch, counts = example(device, genes, perturbations, p["batch_size"])
    kinds = torch.cat([torch.zeros(1, perturbations), torch.eye(perturbations)])  # control, and one a perturbation
    sums = torch.poisson(300 * torch.rand(len(kinds), genes))
    bulk = Pseudobulk(sums, kinds, torch.full((len(kinds),), 100.0), torch.ones(genes))
    summary = replace(summary, control="control", pseudobulk=bulk)
    kind, options = KINDS[p["only"]]
    sizes = {name: p[name] for name in ("latent", "embedding_layers")}
    sizes |= {name: p["width"] for name in ("encoder_width", "decoder_width")}
    sizes |= {"embedding_width": p.get("embedding_width", p["width"])}
    torch.manual_seed(0)
    model = kind.paper(summary, **(kind.accepted(sizes) | options)).to(device)
    step = TrainingStep(model, FitConfig.paper(particles=p["particles"]), {Plate.DOSE: counts})
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    times = []
    for _ in range(steps + 2):  # two to warm up
        start = clock()
        step(batch)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(clock() - start)
    return statistics.median(times[2:])


def main() -> None:
    """Read the command line, time each kind of run, and print or write the table of costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "preset", nargs="?", default="full", help="a preset of book/grid.yaml at the shapes of full data"
    )
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each kind of run")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--write", action="store_true", help="also write data/results/cost.csv, or cost-gpu.csv")
    options = parser.parse_args()
    began = time.perf_counter()
    torch.set_num_threads(1)
    device = str(choose_device(options.device))
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in grid.runs(options.preset).values():
        p = dict(run.parameters)
        key = (run.name.split("/")[1], p["only"], p.get("encodings", "compositional"), p["latent"])
        groups.setdefault(key, []).append(p)
    rows = []
    for (experiment, name, encoding, latent), members in groups.items():
        genes, alone, unique = SHAPES[experiment]
        shape = (genes, unique if encoding == "unique" else alone)
        step = seconds_a_step(members[0], shape, device, options.steps)
        steps = sum(p["steps"] for p in members)
        rows.append({
            "data": experiment, "model": name + ", unique" * (encoding == "unique"), "K": latent,
            "runs": len(members), "steps": members[0]["steps"], "s a step": f"{step:.2g}",
            "hours": round(step * steps / 3600), "MB": round(len(members) * ROW_KB / 1000, 1),
        })  # fmt: skip
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    total = {name: table[name].sum() for name in ("runs", "hours", "MB")}
    table = pd.concat([table, pd.DataFrame([{"data": "all"} | total])], ignore_index=True)
    table = table.astype({name: "Int64" for name in ("K", "runs", "steps", "hours")})
    print(table.to_string(index=False))
    if options.write:
        given = {"preset": options.preset, "steps": options.steps, "device": device, "threads": 1, "seed": 0}
        name = "cost-gpu" if device.startswith("cuda") else "cost"
        write_results(name, table, given, seconds=time.perf_counter() - began)


if __name__ == "__main__":
    main()
