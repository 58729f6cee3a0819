"""The book on paper and as an archive, from a small built book of two chapters."""

import re
import shutil
import subprocess
import zipfile

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT

from spikenb.book import printing

MATHS = '<script>window.MathJax = {"options": {}}</script><script defer src="../_static/mathjax/tex-svg.js"></script>'
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<style>body, .bd-main, .bd-main .bd-content {{ display: flex; }}</style>
<link rel="stylesheet" href="../_static/book.css">{maths}<script src="../_static/searchtools.js"></script></head>
<body><nav class="bd-links"><a href="#">here</a><a href="01_one.html">1</a><a href="02_two.html">2</a></nav>
<article class="bd-article">{text}</article></body></html>"""
EXERCISE = """<p><strong>Exercise {n}.1</strong> Compute.</p>
<details><summary>Hint</summary><p>hint {n}</p></details>
<details class="hide above-input"><summary>Set-up</summary><p>import {n}</p></details>
<details><summary>Solution</summary><p>answer {n}</p></details>"""


@pytest.fixture
def pages(tmp_path):
    folder = tmp_path / "html"
    (folder / "book").mkdir(parents=True)
    shutil.copytree(ROOT / "assets/static", folder / "_static")
    one = f"""<section id="start"><h1>One<a class="headerlink" href="#start">#</a></h1>
    <p>See <a href="02_two.html#start">two</a>, <a href="02_two.html">all of it</a>, <a href="#start">here</a>,
    <a href="../genindex.html">the index</a>, <a href="https://example.org">outside</a>.
    <span class="math">\\(x^2\\)</span></p>
    <div class="spike-live" id="live-a"><label for="live-a-x">x</label><input id="live-a-x"></div>
    {EXERCISE.format(n=1)}</section>"""
    two = f'<section id="start"><h1>Two</h1>{EXERCISE.format(n=2)}</section>'
    for name, text in (("index", "<h1>The book</h1>"), ("01_one", one), ("02_two", two)):
        maths = MATHS if name == "01_one" else ""
        (folder / f"book/{name}.html").write_text(PAGE.format(name=name, text=text, maths=maths), encoding="utf-8")
    return folder


def test_the_whole_has_all_pages_once_and_its_links_lead_inside(pages):
    whole = BeautifulSoup(printing.bind(pages), "html.parser")
    assert [h.get_text() for h in whole.select("h1")] == ["The book", "One", "Two", "Solutions"]
    ids = [e["id"] for e in whole.select("[id]")]
    assert len(ids) == len(set(ids))
    links = {a.get_text(): a.get("href") for a in whole.select("a")}
    assert links == {"two": "#02_two--start", "all of it": "#02_two", "here": "#01_one--start", "the index": None,
                     "outside": "https://example.org"}  # fmt: skip
    assert all(link[1:] in ids for link in links.values() if link and link[0] == "#")
    assert whole.select_one("#live-a-x") and whole.select_one("label")["for"] == "live-a-x"  # scripts find them
    assert not whole.select("script[src*=searchtools], nav, .headerlink") and whole.title.get_text() == "The book"


def test_solutions_stand_at_the_end_and_hints_are_unfolded(pages):
    whole = BeautifulSoup(printing.bind(pages), "html.parser")
    last = whole.select("article")[-1]
    assert [h.get_text() for h in last.select("h3")] == ["Exercise 1.1", "Exercise 2.1"]
    assert "answer 1" in last.get_text() and whole.get_text().count("answer") == 2
    details = whole.select("details")
    assert [d.has_attr("open") for d in details] == [True, False, True, False]


def test_an_archive_holds_every_page_and_is_the_same_twice(pages, tmp_path):
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    assert printing.archive(pages, first) == printing.archive(pages, second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as packed:
        names = packed.namelist()
        assert packed.testzip() is None and packed.read("spikenb/book/01_one.html").startswith(b"<!doctype")
    assert len(names) == len([p for p in pages.rglob("*") if p.is_file()])
    assert all(name.startswith("spikenb/") for name in names)


@pytest.mark.parametrize("do", [printing.archive, printing.pdf])
def test_without_a_book_it_says_so(do, tmp_path):
    if do is printing.pdf and not any(map(shutil.which, printing.BROWSERS)):
        pytest.skip("no browser is installed here")
    with pytest.raises(ValueError, match="pages"):
        do(tmp_path, tmp_path / "x")


def test_without_a_browser_it_says_so(pages, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="no browser"):
        printing.pdf(pages, tmp_path / "x.pdf")


def test_the_book_is_printed_with_its_formulas(pages, tmp_path):
    browser = next(filter(None, map(shutil.which, printing.BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser is installed here")
    whole = pages / "book/whole.html"
    whole.write_text(printing.bind(pages), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    loaded = subprocess.run([browser, *flags, whole.as_uri()], capture_output=True, text=True).stdout
    assert loaded.count("<mjx-container") == 1  # what the page is when it has loaded, which is when it is printed
    target = tmp_path / "book.pdf"
    assert printing.pdf(pages, target) == 4  # title, two chapters, solutions, each on its own sheet
    content = target.read_bytes()
    assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/StructElem", content)) > 10  # a tagged PDF, for screen readers
    assert not (pages / "book/_whole.html").exists()
