"""Every page that is built, for every reader: axe-core finds nothing, nothing is too wide, the keyboard is seen.

A page is loaded once and then seen in both themes and at all widths, with all that is folded open.
"""

import re
import time
from importlib.resources import files

import pytest
from conftest import visit, wait
from test_pages import PAGES, THEMES, WIDTHS

OTHERS = ["../search?q=catapult", "../genindex", "../py-modindex", "../_modules/index", "../_modules/spikenb/agop#AGOP",
          "api#spikenb.agop.AGOP"]  # fmt: skip
SHOW = """
for (const e of document.querySelectorAll("#pst-back-to-top")) e.style.display = "block";
for (const e of document.querySelectorAll(".headerlink")) e.style.visibility = "visible";
"""  # what is there only after scrolling up, or under the mouse
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]


@pytest.fixture(scope="module", params=PAGES + OTHERS)
def page(request, browser, built):
    name, rest = re.fullmatch("([^?#]*)(.*)", request.param).groups()
    visit(browser, built, name)
    if rest:  # the search with results, or the place that a link leads to, which is marked
        browser.get(browser.current_url + rest)
    if "search" in name:
        wait(browser, "return document.querySelector('#search-results').innerText.includes('Search finished')")
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    return request.param


def look(browser, width, theme="light"):
    """The page as it is at this width and in this theme, once it has come to rest."""
    seen = dict(width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", seen)
    features = [dict(name="prefers-color-scheme", value=theme)]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(features=features))
    wait(browser, f"return document.documentElement.dataset.theme === '{theme}'", 60)
    browser.execute_script(SHOW)
    time.sleep(0.5)  # the theme looks for boxes that scroll 0.3 s after a change
    wait(browser, "return document.getAnimations().every(a => a.playState !== 'running')", 60)


def test_nothing_is_wider_than_the_screen(browser, page):
    for width in (390, 768, 1280, 1600):
        look(browser, width)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_tables_words_are_whole_on_a_phone(browser, page):
    """No plain table squeezes a column until its words break: tables of words are cards, others scroll."""
    look(browser, 390)
    broken = browser.execute_script(
        """
        const cells = [...document.querySelectorAll("article table.table:not(.spike-words) :is(th, td) > p")];
        return cells.filter(p => p.scrollWidth > p.clientWidth + 1 || (p.offsetHeight > 120 && p.offsetWidth < 60))
          .map(p => p.textContent);
        """
    )
    assert not broken
    cards = "document.querySelectorAll('table.spike-words tbody td')"
    heads = f"return [...{cards}].every(td => td.dataset.title && getComputedStyle(td).display === 'block')"
    assert browser.execute_script(heads)
    if page == "cheat_sheet":
        assert browser.execute_script(f"return {cards}.length") > 30


def test_axe_core_finds_no_violation(browser, page):
    axe = pytest.importorskip("axe_playwright_python", reason="pip install --no-deps -r tests/requirements.txt")
    browser.set_script_timeout(300)
    browser.execute_script(files(axe).joinpath("axe.min.js").read_text("utf-8"))
    for width, theme in zip(WIDTHS, THEMES, strict=True):  # light and wide, dark and narrow
        look(browser, width, theme)
        found = browser.execute_async_script(
            # the drawings of formulas are hidden from assistive technology, which reads the MathML beside them
            "axe.run({include: [document], exclude: [['mjx-container > svg']]}, "
            "{runOnly: arguments[0], resultTypes: ['violations']})"
            ".then(arguments[1])",
            RULES,
        )
        assert len(found["passes"]) > 15  # it has looked
        violations = [(v["id"], v["help"], node["html"]) for v in found["violations"] for node in v["nodes"]]
        assert not violations, f"{page}, {width} px, {theme}"


def test_the_keyboards_place_is_seen(browser, page):
    """Every link and control of the text looks different when it has the focus."""
    look(browser, 1280)
    unseen = browser.execute_script(
        """
        const all = [...document.querySelectorAll("article :is(a[href], button, input, select, summary)")];
        const look = e => (s => [s.outlineStyle, s.outlineWidth, s.boxShadow].join())(getComputedStyle(e));
        return all.filter(e => e.checkVisibility({visibilityProperty: true})).filter(e => {
          e.blur();
          const before = look(e);
          e.focus({focusVisible: true, preventScroll: true});
          return document.activeElement !== e || look(e) === before || getComputedStyle(e).opacity === "0";
        }).map(e => e.outerHTML.slice(0, 150));
        """
    )
    assert not unseen
