"""Figures to touch: their numbers are the library's, their pictures are drawn, and a keyboard is enough."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess

import nbformat
import numpy as np
import pytest
import samsbook
import torch
import yaml
from samsbook import browser, build, touch
from scipy.special import expit, softmax
from scipy.stats import binom, nbinom, norm
from test_layout import CHAPTERS, ROOT

from samslib.distributions import NegativeBinomial, StraightThroughBernoulli
from samslib.doses import FORMS, DoseCurves
from samslib.evaluate.tables import perturbseq
from samslib.objective import iwelbo

SCRIPT = ROOT / touch.SCRIPT
NAMES = sorted(path.stem for path in (ROOT / touch.PICTURES).glob("*.svg"))
FOLLOWS = """const { FIGURES } = require(process.argv[1]);
console.log(JSON.stringify(FIGURES[process.argv[2]].follows(JSON.parse(process.argv[3]))));"""

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="there is no Node to run the script")


def follows(name: str, **values) -> dict:
    """What the script computes for a figure."""
    command = ["node", "-e", FOLLOWS, str(SCRIPT), name, json.dumps(values)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# --- the numbers ------------------------------------------------------------------------------------------


@needs_node
@pytest.mark.parametrize("K, p", [(100, 0.01), (2, 0.5), (200, 0.001)])
def test_active_axes_are_binomial(K, p):
    told = follows("active-axes", K=K, p=p)
    np.testing.assert_allclose(told["law"], binom(K, p).pmf(np.arange(K + 1)), rtol=1e-9, atol=1e-300)
    assert told["mean"] == pytest.approx(binom(K, p).mean()) and told["nothing"] == pytest.approx(binom(K, p).pmf(0))
    assert told["shared"] == pytest.approx(binom(K, p**2).sf(0))


@needs_node
def test_the_real_screen_is_the_recorded_one():
    table = samsbook.read_results("screen-tapseq-effects").groupby(["target", "gene"])[["model", "cells"]].mean()
    for target in ("HS2", "FAM83A", "MYC"):
        rows = follows("screen", target=target)["rows"]
        for gene, model, cells in rows:
            assert table.loc[(target, gene)].tolist() == pytest.approx([model, cells], abs=5e-4)
        assert abs(rows[0][2]) == pytest.approx(table.loc[target, "cells"].abs().max(), abs=5e-4)


@needs_node
@pytest.mark.parametrize("A, B, angle", [(2, 1.5, 90), (3, 0.1, 180), (0.01, 0.01, 40)])
def test_vectors_add_and_shares_do_not(A, B, angle):
    told = follows("additivity", A=A, B=B, angle=angle)
    a, b = np.array([A, 0.0]), B * np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))])
    weights, bias = np.array([[1.0, 0, -1], [0, 1, -1]]), np.array([0, 0.4, 0.8])
    control, *alone, both = (softmax(z @ weights + bias) for z in (0 * a, a, b, a + b))
    np.testing.assert_allclose(told["both"], a + b)
    np.testing.assert_allclose(told["sum"], sum(alone) - 2 * control, atol=1e-12)
    np.testing.assert_allclose(told["together"], both - control, atol=1e-12)
    departure = np.linalg.norm(both - alone[0] - alone[1] + control) / np.linalg.norm(both - control)
    assert told["departure"] == pytest.approx(departure) and (departure < 0.02) == (max(A, B) < 0.1)


@needs_node
@pytest.mark.parametrize("depth, level, fold, theta", [(200, 10, 1, 3), (30, 100, 3, 0.5), (10_000, 0.3, -3, 100)])
def test_depth_reads_the_published_readout_of_negative_binomial_counts(depth, level, fold, theta):
    told = follows("depth", depth=depth, level=level, fold=fold, theta=theta)
    k = torch.arange(20_000, dtype=torch.float64)

    def read(mean):
        mass = NegativeBinomial(torch.full((1, len(k), 1), mean).double(), torch.tensor([theta]).double())
        p = mass.log_prob(k[:, None]).exp().flatten()
        assert float(p.sum()) == pytest.approx(1) == nbinom(theta, theta / (theta + mean)).cdf(len(k))
        return float(p @ perturbseq(torch.stack([k, depth - k], -1))[:, 0])  # all other counts are the second gene

    shares = [1e-4 * level * 2**fold, 1e-4 * level]
    assert told["effect"] == pytest.approx(read(depth * shares[0]) - read(depth * shares[1]), abs=1e-7)
    assert told["sure"] == pytest.approx(np.log2((1 + 1e4 * shares[0]) / (1 + 1e4 * shares[1])))
    assert [told["curve"][0][0], told["curve"][-1][0]] == pytest.approx([30, 10_000])


@needs_node
@pytest.mark.parametrize("phi, temperature, seen, effect", [(1, 1, 1.2, 2), (-2, 0.3, 0.5, 1.5), (0.5, 3, 3, 1)])
def test_gradients_are_those_of_the_librarys_mask(phi, temperature, seen, effect):
    """Over an even grid of the uniform draw instead of random ones."""
    told = follows("straight-through", phi=phi, temperature=temperature, seen=seen, effect=effect)
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    logits = torch.full_like(u, phi).requires_grad_()
    mask = StraightThroughBernoulli(logits, temperature)
    M = mask.attach(((u.logit() + logits) / temperature).detach())
    (gradient,) = torch.autograd.grad(-((seen - effect * M) ** 2).sum(), logits)
    assert told["biased"] == pytest.approx(gradient.mean().item(), abs=1e-4)
    f = [-((seen - effect * m) ** 2) for m in (0, 1)]
    assert told["exact"] == pytest.approx(expit(phi) * expit(-phi) * (f[1] - f[0]))


@needs_node
@pytest.mark.parametrize("offset, width", [(1, 0.7), (0.5, 1.5), (0, 1)])
def test_bounds_are_the_importance_weighted_ones(offset, width):
    """Against 20,000 sets of draws, within five standard errors: a seed fails once in half a million."""
    P, told = 10, follows("particles", P=10, offset=offset, width=width)
    kl = (width**2 + offset**2 - 1) / 2 - math.log(width)
    assert told["elbo"] == pytest.approx(-kl, abs=1e-6)
    z = offset + width * np.random.default_rng(0).standard_normal((P, 20_000))
    terms = {"z": torch.as_tensor(norm.logpdf(z) - norm.logpdf(z, offset, width))}
    drawn = iwelbo(terms).numpy()
    assert abs(told["bound"] - drawn.mean()) < 5 * drawn.std() / 20_000**0.5 + 1e-9
    bounds = [bound for _, bound in told["curve"]]
    assert bounds[0] == pytest.approx(-kl, abs=1e-6) and (np.diff(bounds) > -1e-9).all() and bounds[-1] < 1e-9


@needs_node
@pytest.mark.parametrize("dose, a, b", [(0.25, 0, 0), (0, 1, -2), (1.5, -2, 1.3)])
def test_dose_curves_are_the_librarys(dose, a, b):
    u, latents = torch.tensor(dose).double(), torch.tensor([a, b]).double()
    ours = {
        f"SAMS-VAE, {kind}": float(FORMS[kind.split()[0]][0](u, latents)) for kind in ("logsigmoid (Hill)", "sigmoid")
    }
    for kind in ("logsigm", "sigm"):
        curve = DoseCurves(kind, 1).double()
        torch.nn.init.constant_(curve.slope, math.exp(a))
        torch.nn.init.constant_(curve.bias, b)
        ours[f"CPA, {kind}"] = float(curve(u[None, None]).detach())
    told = {kind: follows("doses", kind=kind, dose=dose, a=a, b=b) for kind in ours}
    assert {kind: found["value"] for kind, found in told.items()} == pytest.approx(ours, abs=1e-6)
    for kind, found in told.items():
        half = follows("doses", kind=kind, dose=found["half"], a=a, b=b)["value"]
        assert half == pytest.approx(found["largest"] / 2)


@needs_node
def test_what_the_captions_say_is_so():
    few, many = (follows("active-axes", K=K, p=p) for K, p in ((100, 0.01), (200, 0.005)))
    np.testing.assert_allclose(few["law"], many["law"][:101], atol=0.002)
    assert many["shared"] == pytest.approx(few["shared"] / 2, rel=0.01)
    assert follows("additivity", A=0.1, B=0.1, angle=90)["departure"] < 0.06
    gradients = [follows("straight-through", phi=1, temperature=1, seen=1.2, effect=e) for e in (2, 1.2)]
    curves = [np.array(found["curves"])[:, :, 1] for found in gradients]
    assert [bool((exact * biased < 0).any()) for exact, biased in curves] == [True, False]
    assert np.abs(np.subtract(*curves[1])).max() > 0.05
    sharp = np.array(follows("straight-through", phi=1, temperature=0.1, seen=1.2, effect=2)["curves"])[:, :, 1]
    assert np.abs(np.subtract(*sharp)).max() < 0.2 * np.abs(np.subtract(*curves[0])).max()
    wide, narrow = (follows("particles", P=10, offset=0, width=width) for width in (1.6, 0.52))
    assert wide["elbo"] < narrow["elbo"] < 0 and narrow["bound"] < 3 * wide["bound"]  # even from a lower ELBO
    depth = {level: follows("depth", depth=200, level=level, fold=1, theta=3) for level in (3, 10, 30)}
    read = {level: np.array(found["curve"]) for level, found in depth.items()}
    assert all(curve[0, 1] < 0.7 * depth[level]["sure"] < curve[:, 1].max() for level, curve in read.items())
    assert all(curve[:, 1].max() > depth[level]["sure"] for level, curve in read.items())
    tops = [curve[curve[:, 1].argmax(), 0] for curve in read.values()]
    assert tops == sorted(tops, reverse=True)  # the rarer, the deeper


# --- the files --------------------------------------------------------------------------------------------


@needs_node
def test_still_pictures_are_those_of_the_script():
    drawn = touch.stills()
    kept = {name: (ROOT / touch.PICTURES / f"{name}.svg").read_text(encoding="utf-8").strip() for name in NAMES}
    assert kept == drawn, "run `python -m samsbook.touch` and commit what it draws"


def test_the_script_is_small_and_asks_for_nothing():
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 370
    assert re.findall(r"https?://[\w./]*", text) == ["http://www.w3.org/2000/svg"]  # the name of SVG, not an address
    assert not re.search(r"fetch\(|XMLHttp|import ", text)


def test_every_figure_has_its_place_in_one_chapter():
    prose = "\n".join(
        cell.source
        for path in CHAPTERS
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    )
    assert sorted(re.findall(r"^```\{touch\} (\S+)$", prose, re.M)) == NAMES


# --- a page -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A book of one page with every figure, built as the book is."""
    folder = tmp_path_factory.mktemp("book")
    shutil.copytree(ROOT / touch.PICTURES, folder / touch.PICTURES)
    ours = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    names = ("html_css_files", "html_js_files", "html_context", "language")
    style = {"html_static_path": [str(ROOT / "book" / "assets")]} | {name: ours[name] for name in names}
    config = {"title": "Tiny", "execute": {"execute_notebooks": "off"}}
    config["html"] = {"favicon": "favicon.svg"}
    shutil.copy(ROOT / "book" / "assets" / "favicon.svg", folder)
    config["sphinx"] = {"extra_extensions": ["sphinx.ext.autodoc", "samsbook.pages"], "config": style}
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    parts = [{"caption": "Pages", "chapters": [{"file": "figures"}]}]
    (folder / "_toc.yml").write_text(yaml.safe_dump({"format": "jb-book", "root": "index", "parts": parts}))
    (folder / "index.md").write_text("# Index\n\nA page.\n")
    figures = (f"```{{touch}} {name}\n:alt: A picture of {name}.\n\nWhat {name} shows.\n```\n" for name in NAMES)
    (folder / "figures.md").write_text("\n".join(["# Figures\n", *figures]))
    assert build.build_pages(folder, None) == []
    return folder / "_build" / "html"


def test_a_page_has_each_still_picture_with_alt_text_and_caption(site):
    text = (site / "figures.html").read_text(encoding="utf-8")
    for name in NAMES:
        figure = re.search(rf'<figure [^>]*id="touch-{name}">.*?</figure>', text, re.S)
        assert figure and f'alt="A picture of {name}."' in figure[0] and f"What {name} shows." in figure[0]
        assert 'class="touch' in figure[0]


@pytest.mark.parametrize(
    "source, says",
    [
        ("```{touch} active-axis\n:alt: A.\n\nB.\n```", "no figure to touch 'active-axis'"),
        ("```{touch} doses\n\nB.\n```", "Give the figure to touch 'doses' an :alt: and a caption"),
        ("```{touch} doses\n:alt: A.\n```", "Give the figure to touch 'doses' an :alt: and a caption"),
    ],
)
def test_a_figure_without_picture_or_words_is_refused(source, says):
    from types import SimpleNamespace

    from docutils.core import publish_doctree
    from docutils.parsers.rst import directives

    directives.register_directive("touch", touch.Touch)
    name, _, rest = source.removeprefix("```{touch} ").removesuffix("```").partition("\n")
    text = f".. touch:: {name}\n" + "".join(f"   {line}\n" for line in rest.splitlines())
    settings = {"report_level": 5, "halt_level": 5, "env": SimpleNamespace(srcdir=ROOT)}
    assert says in publish_doctree(text, settings_overrides=settings).astext()


@pytest.fixture(scope="module")
def chromium(site):
    if not browser.find():
        pytest.skip(f"there is no browser: none of {', '.join(browser.NAMES)}")
    pytest.importorskip("playwright.sync_api")
    with browser.opened(site) as both:
        yield both


def opened(chromium, width=1280, **options):
    """The page, and what went wrong while it loaded."""
    window, address = chromium
    page, wrong = window.new_context(viewport={"width": width, "height": 900}, **options).new_page(), []
    page.on("request", lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.goto(f"{address}figures.html", wait_until="load")
    return page, wrong


def test_a_keyboard_reaches_every_control_and_the_sentence_and_the_picture_follow(chromium):
    page, wrong = opened(chromium)
    figures = page.locator("figure.touch")
    assert figures.count() == len(NAMES) and not page.locator("figure.touch img").count()
    for i, name in enumerate(NAMES):
        figure = figures.nth(i)
        controls, said = figure.locator("input, select"), figure.locator("[aria-live=polite]")
        controls.first.focus()
        for j in range(controls.count()):
            control = controls.nth(j)
            assert control.evaluate("c => c === document.activeElement && c.labels.length === 1"), (name, j)
            before = said.inner_text(), figure.locator("svg").inner_html()
            for _ in range(4):  # of some, one step is less than what is written
                page.keyboard.press("ArrowRight" if control.get_attribute("type") else "ArrowDown")
            after = said.inner_text(), figure.locator("svg").inner_html()
            assert after[0] != before[0] and after[1] != before[1], (name, control.get_attribute("id"))
            assert not re.search("NaN|undefined|Infinity", " ".join(after)), after
            page.keyboard.press("Tab")
    assert not wrong
    page.context.close()


@needs_node
def test_every_control_may_stand_at_either_end():
    """Twice each corner of all controls: no number and no sentence breaks."""
    corners = """const { FIGURES, still } = require(process.argv[1]);
    for (const [name, { controls }] of Object.entries(FIGURES)) {
      let sets = [{}];
      for (const [key, c] of Object.entries(controls))
        sets = sets.flatMap((set) => (c.choices ?? [c.low, c.high]).map((value) => ({ ...set, [key]: value })));
      for (const set of sets) {
        const { svg, said } = still(name, set);
        console.log(name, JSON.stringify(set), (svg + said).replace(/\\n/g, " "));
      }
    }"""
    run = subprocess.run(["node", "-e", corners, str(SCRIPT)], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert len(lines) == 2**2 + 2**3 + 2**4 + 2**4 + 2**3 + 4 * 2**3 + 14
    broken = [line for line in lines if re.search("NaN|undefined|Infinity|e[+-]?\\d{3}", line)]
    assert not broken, broken[0]


@pytest.mark.parametrize("mode", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_figures_fit_their_words_can_be_read_and_nothing_is_fetched(chromium, width, mode):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, wrong = opened(chromium, width, color_scheme=mode)
    assert page.evaluate("document.documentElement.scrollWidth") <= width and not wrong
    scale = page.evaluate("document.querySelector('.touch-picture svg').getBoundingClientRect().width / 400")
    assert 13 * scale >= 11  # pixels
    spread = """() => [...document.querySelectorAll(".touch-picture svg")].flatMap((svg) => {
      const box = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].map((text) => text.getBoundingClientRect())
        .filter((words) => words.left < box.left - 1 || words.right > box.right + 1);
    }).length"""
    assert page.evaluate(spread) == 0, "words reach out of their picture"
    found = axe.Axe().run(page).response["violations"]
    assert not [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    page.context.close()


def test_without_a_script_the_still_pictures_stand(chromium):
    page, _ = opened(chromium, java_script_enabled=False)
    assert page.locator("figure.touch img").count() == len(NAMES)
    assert not page.locator("figure.touch input").count()
    page.context.close()
