"""The built pages: clean build, links, alt text, weight, no outside request; and in a real browser, behaviour."""

import math
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import CHAPTERS, visit, wait

from spikenb.book import board, claims

PAGES = [
    "index",
    "how_to_read",
    *(p.stem for p in CHAPTERS),
    "cheat_sheet",
    "board",
    "errata",
    "run_it_all",
    "why_numbers_differ",
    "glossary",
    "bibliography",
    "api",
    "benchmarks",
    "teachers_guide",
    "teachers_chapters",
]
THEMES, WIDTHS = ("light", "dark"), (1280, 390)


@pytest.fixture(scope="session")
def html(built):
    return {p: BeautifulSoup((built[0] / f"book/{p}.html").read_text("utf-8"), "html.parser") for p in PAGES}


def test_the_build_is_quick(built):
    assert built[1] < 60  # twice the budget


def local_target(folder, page, href):
    parts = urlsplit(href)
    if parts.scheme or parts.netloc:
        return None
    path = (folder / "book" / unquote(parts.path)).resolve() if parts.path else folder / f"book/{page}.html"
    return path, parts.fragment


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(built, html, page):
    folder, anchors = built[0], {}
    for link in html[page].select("a[href]"):
        target = local_target(folder, page, link["href"])
        if target is None:
            continue
        path, fragment = target
        assert path.exists(), f"{page}: {link['href']}"
        if fragment and path.suffix == ".html":
            if path not in anchors:
                text = path.read_text("utf-8")
                anchors[path] = set(re.findall(r'\bid="([^"]+)"', text))
            assert unquote(fragment) in anchors[path], f"{page}: {link['href']}"


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_fetched_from_outside(html, page):
    for tag, attribute in (("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")):
        for element in html[page].select(f"{tag}[{attribute}]"):
            assert not re.match(r"(https?:)?//", element[attribute]), element


@pytest.mark.parametrize("page", PAGES)
def test_images_have_alt_text(html, page):
    for image in html[page].select("article img"):
        assert len(image.get("alt", "")) > 8 and not image["alt"].endswith(".png"), image


@pytest.mark.parametrize("page", PAGES)
def test_weight(built, html, page):
    path = built[0] / f"book/{page}.html"
    images = {(path.parent / unquote(i["src"])).resolve() for i in html[page].select("article img")}
    assert path.stat().st_size + sum(i.stat().st_size for i in images) < 1.5e6
    for live in html[page].select(".spike-live"):
        assert len(str(live)) < 250_000


def test_shared_assets_are_small(built):
    used = [p for p in (built[0] / "_static").rglob("*") if p.is_file() and p.suffix in (".js", ".css", ".woff2")]
    requested = [p for p in used if "fontawesome" not in str(p) or "webfonts" not in str(p)]
    assert sum(p.stat().st_size for p in requested) < 4.5e6


def test_the_board_lists_every_claim_once(html):
    rows = [row["id"] for row in html["board"].select("th[scope=row]")]
    assert sorted(rows) == sorted(f"claim-{id}" for id in claims.table())
    stored = {row["id"]: (path, row) for path in CHAPTERS for row in claims.stored(path)}
    for id in claims.table():
        row = html["board"].find(id=f"claim-{id}").parent
        verdict = row.select_one("td[data-title=verdict]").get_text()
        if id in stored:
            path, data = stored[id]
            assert data["verdict"] in verdict and data["ours"] in row.get_text()
            assert "campaign, laptop:" in row.get_text() and "of 10 seeds" in row.get_text()
            assert row.a["href"] == f"{path.stem}.html#claim-{id}"
        else:
            waits = claims.table()[id].get("needs")
            assert verdict.startswith("not settled here" if waits else "not done yet") and not row.a
            assert not waits or f"needs {waits}; the cells of chapter" in verdict


@pytest.mark.parametrize(
    "verdicts, expected",
    [
        ({"holds": 9, "does not hold": 1}, "holds"),
        ({"holds": 8, "holds in part": 2}, "holds in part"),
        ({"holds": 8, "does not hold": 2}, "does not hold"),
        ({"holds in part": 9, "does not hold": 1}, "holds in part"),
        ({"not settled here": 6, "holds": 4}, "not settled here"),
        ({}, "holds in part"),
    ],
)
def test_the_boards_verdict_is_that_of_the_seeds(verdicts, expected):
    counted = {"laptop": {"verdicts": verdicts}} if verdicts else {}
    assert board.verdict_of({"verdict": "holds in part"}, counted) == expected
    assert board.verdict_of({"verdict": "holds"}, {"paper": {"verdicts": {"does not hold": 1}}}) == "holds"


def test_the_errata_page_has_every_erratum(html):
    stored = [e for path in CHAPTERS for e in claims.stored(path, claims.ERRATA_MIME)]
    shown = html["errata"].select(".spike-erratum")
    assert len(shown) == len(stored) >= 4
    for erratum, block in zip(stored, shown, strict=True):
        assert erratum["evidence"] in block.get_text() and erratum["found"] in block.get_text()


# ---- in a browser ----


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_a_browser(browser, built, page, width, theme):
    """No console error, no request to the outside, formulas rendered, nothing wider than the screen, the theme set."""
    visit(browser, built, page, width, theme)
    errors = [e["message"] for e in browser.get_log("browser") if e["level"] in ("SEVERE", "ERROR")]
    assert not errors
    requests = re.findall(
        r'"url":"((?:https?|wss?):[^"]*)"', "".join(e["message"] for e in browser.get_log("performance"))
    )
    assert not requests
    assert browser.execute_script("return document.documentElement.dataset.theme") == theme
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    count = "return document.querySelectorAll(arguments[0]).length"
    maths, rendered = (browser.execute_script(count, f"article .math{part}") for part in ("", " mjx-container"))
    assert maths == 0 or rendered >= maths
    assert not browser.execute_script("return document.querySelectorAll('article [data-mml-node=merror]').length")
    invisible = browser.execute_script(
        "return [...document.querySelectorAll('article img')].filter(i => !i.complete || !i.naturalWidth).length"
    )
    assert invisible == 0


def test_dark_figures_are_dark(browser, built):
    """A white figure on a dark page would glare: its lightness is turned round, and only then."""
    for theme, filtered in (("light", "none"), ("dark", "invert(1) hue-rotate(180deg)")):
        visit(browser, built, CHAPTERS[0].stem, theme=theme)
        style = "return getComputedStyle(document.querySelector('div.cell_output img')).filter"
        assert browser.execute_script(style) == filtered


SLIDERS = [
    ("01_quadratic_stability", "parabola"),
    ("02_slas_toy", "slas"),
    ("03_tanh_edge_of_stability", "film"),
    ("04_frequency", "descent"),
    ("05_flatness", "directions"),
    ("06_condensation", "condense"),
    ("07_cnn_real_images", "spike-plane"),
    ("08_catapult", "catapult"),
    ("09_several_catapults", "third-rate"),
    ("10_sgd", "sgd-rates"),
    ("11_agop", "agop"),
    ("12_catapults_teach_features", "catapult-ways"),
    ("13_batch_size_and_optimizers", "batch-size"),
    ("14_edge_in_many_directions", "edge-directions"),
    ("15_dataset_size_singularity", "dataset-size"),
    ("16_your_own_run", "heavy-ball"),
]


@pytest.mark.parametrize("page, name", SLIDERS)
def test_sliders_move_by_keyboard_and_mouse(browser, built, page, name):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    visit(browser, built, page)
    root = browser.find_element(By.ID, f"live-{name}")
    slider = root.find_element(By.TAG_NAME, "input")
    label = root.find_element(By.CSS_SELECTOR, f"label[for={slider.get_attribute('id')}]")
    assert label.text
    said = lambda: root.find_element(By.CLASS_NAME, "spike-say").text  # noqa: E731
    lines = lambda: [p.get_attribute("points") for p in root.find_elements(By.CSS_SELECTOR, "polyline")]  # noqa: E731
    before = slider.get_attribute("value"), said(), lines()
    assert all(before) and all(lines())
    slider.send_keys(Keys.ARROW_LEFT)
    after_key = slider.get_attribute("value"), said(), lines()
    assert all(a != b for a, b in zip(before, after_key, strict=True))
    low, high, now = (float(slider.get_attribute(key)) for key in ("min", "max", "value"))
    quarter = slider.size["width"] // 4 * (1 if now < (low + high) / 2 else -1)  # in the half where it is not
    ActionChains(browser).move_to_element_with_offset(slider, quarter, 0).click().perform()
    after_mouse = slider.get_attribute("value"), said(), lines()
    assert all(a != b for a, b in zip(after_key, after_mouse, strict=True))
    assert root.find_element(By.TAG_NAME, "output").text == after_mouse[0]
    for svg in root.find_elements(By.TAG_NAME, "svg"):
        assert said() in svg.get_attribute("aria-label")


def compute(browser, name, **controls):
    return browser.execute_script(f"return document.getElementById('live-{name}').compute(arguments[0])", controls)


def close(ours, theirs):
    return len(ours) == len(theirs) and all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-300) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("eta_lam", [0.1, 1.0, 1.9, 2.0, 2.1, 2.4])
def test_the_parabolas_numbers_are_pythons(browser, built, eta_lam):
    from spikenb.descent import gd
    from spikenb.problem import Problem

    visit(browser, built, "01_quadratic_stability")
    run = gd(Problem(lambda t: (t**2).sum() / 2, 1), [1.0], eta_lam, 20, keep=1)
    page = compute(browser, "parabola", eta_lam=eta_lam)
    assert close(page["theta"], run.checkpoints.values[:, 0]) and close(page["loss"], run.loss)


@pytest.mark.parametrize("eta, log_y", [(0.005, -5), (0.005, -2), (0.004, -4), (0.003, -8), (0.0055, -3.5)])
def test_the_toys_numbers_are_pythons(browser, built, eta, log_y):
    from spikenb.curvature import top_eigenvalue
    from spikenb.descent import gd
    from spikenb.problem import Problem

    visit(browser, built, "02_slas_toy")
    toy = Problem(lambda t: (50 * t[0] + 200) * t[1] ** 2 - t[0] + 5, 2, inside=lambda t: t[0] > -4)
    run = gd(toy, [0.5, 10.0**log_y], eta, 900, record={"sharpness": top_eigenvalue})
    page = compute(browser, "slas", eta=eta, log_y=log_y)
    steps = len(run.loss)
    assert close(page["f"][:steps], run.loss) and close(page["lam"][:steps], run["sharpness"].values)
    assert run.stopped is None or len(page["f"]) == steps


def test_the_film_shows_what_the_run_measured(browser, built):
    from spikenb import data, networks
    from spikenb.curvature import top_eigenvalue
    from spikenb.descent import gd
    from spikenb.problem import Fit

    visit(browser, built, "03_tanh_edge_of_stability")
    fit = Fit(networks.TwoLayer(20), *data.grid("sin x + sin 4x", -2.7, 2.7, 40))
    theta = gd(fit, networks.normal(fit.model), 0.05, 500).theta
    page = compute(browser, "film", frame=1)
    assert page["now"] == [500]
    assert math.isclose(page["loss_now"][0], fit.loss(theta).item(), rel_tol=1e-3)
    assert math.isclose(page["lam_now"][0], top_eigenvalue(fit, theta), abs_tol=0.01)
    assert all(math.isclose(a, b, abs_tol=6e-4) for a, b in zip(page["fitted"], fit.outputs(theta), strict=True))


def test_the_descents_proportions_are_those_of_its_curves(browser, built):
    import numpy as np

    from spikenb.measure.fourier import lfp

    visit(browser, built, "04_frequency")
    for level in (0, 5, 11):
        page = compute(browser, "descent", K=3, level=level)
        for name in ("spike", "initial"):
            assert len(page["x"]) == 100
            expected = lfp(page[name], np.arange(1, 11))
            assert np.allclose(page[f"{name}_lfp"], expected, atol=0.02)
            assert page[f"{name}_now"] == [page[f"{name}_lfp"][2]]
        assert page["spike_lfp"][0] > page["initial_lfp"][0]


def test_search_works_without_a_server(browser, built):
    """It ends, its results lead to the pages, and it asks for nothing that a browser refuses in a folder."""
    browser.get_log("browser")
    browser.get((built[0] / "search.html").as_uri() + "?q=catapult")
    wait(browser, "return document.querySelector('#search-results').innerText.includes('Search finished')")
    found = browser.execute_script("return [...document.querySelectorAll('#search-results li a')].map(a => a.href)")
    pages = {Path(unquote(urlsplit(link).path)) for link in found}
    assert built[0] / "book/08_catapult.html" in pages and all(page.is_file() for page in pages)
    assert not [e["message"] for e in browser.get_log("browser") if e["level"] in ("SEVERE", "ERROR")]


def test_screenshots(browser, built):
    """Kept where SPIKENB_SCREENSHOTS says, for people to look at."""
    target = os.environ.get("SPIKENB_SCREENSHOTS")
    if not target:
        pytest.skip("set SPIKENB_SCREENSHOTS to a folder to keep screenshots")
    Path(target).mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        for width in WIDTHS:
            for theme in THEMES:
                visit(browser, built, page, width, theme)
                height = browser.execute_script("return document.documentElement.scrollHeight")
                browser.execute_cdp_cmd(
                    "Emulation.setDeviceMetricsOverride",
                    dict(width=width, height=min(height, 15000), deviceScaleFactor=1, mobile=False),
                )
                browser.save_screenshot(str(Path(target) / f"{page}-{width}-{theme}.png"))
