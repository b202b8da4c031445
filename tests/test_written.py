"""Code that stands in the pages for whoever arrives runs as it is written, on cells of the form that they name."""

import re

import anndata
import numpy as np
import pandas as pd
import pytest
from samsbook.parameters import declared
from test_layout import ROOT

import samslib

STEPS = "samslib.fit(model, train, val)"


@pytest.fixture
def adata():
    """300 cells as the pages ask for: raw counts, and names of controls, of genes and of a pair."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"perturbation": np.resize(["control", "KLF1", "MAP2K6", "KLF1+MAP2K6"], 300)})
    obs.index = [f"cell{i}" for i in range(300)]
    counts = rng.poisson(4.0, (300, 20)).astype(np.float32)
    return anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene{g}" for g in range(20)]))


@pytest.mark.filterwarnings("ignore:.*train longer or anew")
@pytest.mark.parametrize("place", ["README.md", "book/introduction.md"])
def test_the_lines_for_ones_own_cells_run(place, adata, tmp_path, monkeypatch):
    """With a few steps in place of the default length, which is what takes the time."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / place).read_text(encoding="utf-8"), re.M | re.S)
    (block,) = [block for block in blocks if "adata" in block]
    assert STEPS in block
    short = STEPS.replace("val)", "val, samslib.FitConfig(steps=6, progress=False))")
    made = {"adata": adata}
    exec(compile(block.replace(STEPS, short), place, "exec"), made)
    assert adata.obsm["X_basal"].shape == (300, made["model"].options["latent"])
    assert isinstance(samslib.load("sams.safetensors"), samslib.SAMSVAE)


def test_the_recipe_from_a_page_to_a_run_names_what_is_there():
    page = (ROOT / "book" / "rerun.md").read_text(encoding="utf-8")
    recipe = page[page.index("## From a page to a run") : page.index("## In Jupyter")]
    (chapter, words), *more = re.findall(r"samsbook run (\S+) (.*)$", recipe, re.M)
    known = declared(ROOT / chapter)
    given = dict(re.findall(r"-p (\w+) (\S+)", words))
    for name, value in given.items():
        known[name].check(known[name].read(value))
    assert not more and f'read_results("{given["results"]}")' in recipe and f"{given['results']}-training.csv" in recipe
