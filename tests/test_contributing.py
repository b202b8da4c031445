"""What is written for those who add to the project holds: the worked example runs as it stands on its page."""

import copy
import os
import re
import subprocess
import sys
import types

import pytest
import test_models
import torch
from conftest import make_data
from test_layout import ROOT

import samslib

PAGE = (ROOT / "book" / "add_a_model.md").read_text(encoding="utf-8")
FILE, *USE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)

# A slip in the file of the page, and what of it the tests of all models are run on: (old, new), the test that fails.
SLIPS = {
    "`E` has no posterior": (
        't.sample("E", self.embedding(t.rows(Plate.DOSE)), Plate.DOSE)\n\n',
        "pass\n\n",
        "test_prior_and_posterior_have_the_same_sites",
    ),
    "`E` has the wrong plate, a draw for each cell of a batch": (
        "Normal(0 * full, full), Plate.DOSE",
        "Normal(0 * full, full), Plate.CELL",
        "test_prior_and_posterior_have_the_same_sites",
    ),
    "the posterior of `E` forgets which rows are present": (
        "t.rows(Plate.DOSE)",
        "slice(None)",
        "test_drawing_only_what_is_present_keeps_every_number",
    ),
    "a parameter that nothing uses": (
        "torch.zeros(G))\n\n",
        "torch.zeros(G))\n        self.spare = nn.Parameter(torch.zeros(G))\n\n",
        "test_every_parameter_gets_a_gradient",
    ),
    "`exogenous` left out": (
        'exogenous, source = ("z_basal",), ',
        "source = ",
        "test_exogenous_latents_do_not_move_under_an_intervention",
    ),
    "controls get a shift": (
        "c.dose @ E) @",
        "(c.dose + 0.1) @ E) @",
        "test_dose_zero_is_control",
    ),
    "an option that is not recorded": (
        "(summary, locals())",
        '(summary, {"encoder_width": encoder_width})',
        "test_save_and_load_give_the_same_numbers",
    ),
    "the encoder looks at the mean of its batch": (
        "self.encoder(b.x,",
        "self.encoder(b.x - b.x[:1],",
        "test_cells_are_exchangeable",
    ),
}


def run(command, folder):
    paths = os.pathsep.join(map(str, (folder, ROOT, ROOT / "book")))
    told = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=ROOT, env=told, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "linear_factors.py").write_text(FILE)
    return tmp_path


def test_the_example_passes_the_contract_by_the_command_of_its_page(folder):
    (command,) = (line for text in COMMANDS for line in text.splitlines())
    assert "pytest --model linear_factors:LinearFactors -k LinearFactors" in command
    words = command.removeprefix("PYTHONPATH=. python ").split()
    done = run([sys.executable, *words, "-q", "-p", "no:cacheprovider"], folder)
    passed = re.search(r"^(\d+) passed", done.stdout, re.M)
    assert done.returncode == 0 and passed and int(passed[1]) > 20, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(FILE.split("class LinearFactors")[1].splitlines()) <= 30, "small enough to be read"


def test_the_example_is_trained_and_compared_as_on_its_page(folder):
    """With a few steps in place of 600, which is what takes the time."""
    script = "\n".join(USE)
    assert "steps=600" in script
    done = run([sys.executable, "-c", script.replace("steps=600", "steps=8, progress=False")], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(name in done.stdout for name in ("LinearFactors -", "CPAVAE -", "pooled", "Name: P01"))


def example(source):
    """The class of the page, defined by this source, and small data for it."""
    module = types.ModuleType("linear_factors")
    exec(compile(source, "linear_factors.py", "exec"), module.__dict__)
    data, kind = make_data(), module.LinearFactors
    torch.manual_seed(0)
    return kind(data.summary(), latent=3, encoder_width=8), data


def test_the_example_learns():
    """60 steps raise the likelihood of small data by over a nat a cell (in five seeds by 4.1 to 4.6)."""
    model, data = example(FILE)
    config = samslib.FitConfig(steps=60, learning_rate=0.02, batch_size=90, seed=0, progress=False)
    history = samslib.fit(model, data, None, config)
    assert history["x"].iloc[-1] > history["x"].iloc[0] + 1


@pytest.mark.parametrize("slip", SLIPS)
def test_each_slip_of_the_page_is_found_by_the_test_that_it_names(slip, tmp_path):
    old, new, name = SLIPS[slip]
    assert f"| {slip} | `{name}` |" in PAGE
    assert FILE.count(old) == 1
    test = getattr(test_models, name)
    folder = {"tmp_path": tmp_path} if "tmp_path" in test.__code__.co_varnames else {}
    model, data = example(FILE)
    test(model, copy.copy(data), **folder)
    model, data = example(FILE.replace(old, new))
    with pytest.raises((AssertionError, RuntimeError, ValueError, KeyError, TypeError)):
        test(model, data, **folder)


def test_the_page_names_no_slip_that_was_not_made():
    table = PAGE[PAGE.index("| a slip |") : PAGE.index("Each row was made")]
    assert re.findall(r"^\| (?!a slip|---)(.*?) \|", table, re.M) == list(SLIPS)


def test_contributing_leads_to_the_page():
    assert "book/add_a_model.md" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
