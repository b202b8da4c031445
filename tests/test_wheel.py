"""What `pip` makes of the repository works away from it."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import samslib

ROOT = Path(__file__).resolve().parents[1]
USE = """
import samsbook, samslib, sys
from pathlib import Path
for package in (samslib, samsbook):
    assert Path(sys.argv[1]) in Path(package.__file__).resolve().parents, package.__file__
data = samslib.PerturbationData.from_anndata(samslib.datasets.load("sams-pairs"))
train, val, _ = data.split(samslib.splits.random(seed=0))
model = samslib.SAMSVAE(data.summary(train), latent=3, encoder_width=8, decoder_width=8, seed=0)
samslib.fit(model, train, val, samslib.FitConfig(steps=2, progress=False))
samslib.plotting.use_style()
print(len(data), samslib.__version__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the files of the repository, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = [*ROOT.glob("samslib/**/*"), *ROOT.glob("book/samsbook/*.py")]
    for path in [*files, *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))]:
        if path.is_file() and "__pycache__" not in path.parts:
            to = source / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    make = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run([*make, "--disable-pip-version-check"], check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.filterwarnings("ignore")
def test_a_wheel_has_the_library_and_the_chapters_helpers_and_draws_the_bundled_cells(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = os.environ | {"PYTHONPATH": str(site), "SAMSLIB_CACHE": str(tmp_path / "cache")}
    environment.pop("SAMSLIB_DATA", None)
    asked = [sys.executable, "-W", "ignore", "-c", USE, str(site.resolve())]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3075", samslib.__version__]
    drawn = samslib.datasets.readers.read_h5ad(tmp_path / "cache" / "sams-pairs.h5ad")
    assert (drawn.X != samslib.datasets.load("sams-pairs").X).nnz == 0


def test_the_version_is_said_in_one_place(wheel):
    assert wheel.name.startswith(f"samslib-{samslib.__version__}-")
    assert version("samslib") == samslib.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == samslib.__version__
