"""The built pages as one document on paper, and as one archive.

    python -m spikenb.book.printing pdf _build/html _build/book.pdf
    python -m spikenb.book.printing zip _build/html _build/book.zip

`make.py pdf` and `make.py zip` build the pages first. The PDF is printed by a Chromium or Chrome that is installed;
nothing is downloaded. Beautiful Soup is needed, which requirements.txt has.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
LIVE = ".spike-live, .spike-front"


def bind(pages):
    """All articles of the built pages in the order of the contents, as one HTML text for the folder `pages`/book.

    Links between pages lead to places in the document; solutions stand at its end. ValueError for a folder without
    a built book.
    """
    from bs4 import BeautifulSoup

    folder = Path(pages, "book")
    if not (folder / "index.html").is_file():
        raise ValueError(f"pages must be a folder with a built book, not {pages}")

    def read(name):
        return BeautifulSoup((folder / name).read_text("utf-8"), "html.parser")

    index = read("index.html")
    names = ["index.html"]
    for link in index.select("nav.bd-links a[href]"):
        name = link["href"].split("#")[0]
        if name and (folder / name).is_file() and name not in names:
            names.append(name)
    articles, solutions, with_maths = [], [], None
    for name in names:
        soup = index if name == "index.html" else read(name)
        with_maths = with_maths or (soup if soup.select("head script[src*=mathjax]") else None)
        article = soup.select_one("article.bd-article")
        for element in article.select(".headerlink, button.copybtn, noscript"):
            element.decompose()
        solutions += _take_solutions(article)
        _rename(article, PurePosixPath(name).stem, names)
        articles.append(str(article))
    if solutions:
        articles.append(f'<article class="bd-article"><h1>Solutions</h1>{"".join(solutions)}</article>')
    whole, scripts = with_maths or index, ""
    for script in whole.select("head script"):  # all but MathJax serves search and theme, which paper has not
        if "mathjax" in script.get("src", "") or "MathJax" in script.get_text():
            del script["defer"]
            scripts += str(script)
        script.decompose()
    if with_maths:  # at the end of the body and at once: the page is loaded, and printed, when all formulas stand
        settings = "window.MathJax = Object.assign(window.MathJax || {}, {startup: {typeset: false}});"
        scripts = scripts.replace("<script src", f"<script>{settings}</script><script src")
        scripts += "<script>MathJax.typeset();</script>"
    whole.html["data-theme"] = whole.html["data-mode"] = "light"
    whole.title.string = index.select_one("h1").get_text()
    main = f'<main class="bd-main"><div class="bd-content">{"".join(articles)}</div></main>{scripts}'
    body = f'<body class="spike-whole">{main}</body>'
    return f"<!doctype html><html {_attributes(whole.html)}>{whole.head}{body}</html>"


def _attributes(tag):
    return " ".join(f'{key}="{" ".join(v) if isinstance(v, list) else v}"' for key, v in tag.attrs.items())


def _take_solutions(article):
    """Cut the folded solutions out of a page, each with the name of its exercise; unfold the hints."""
    taken, exercise = [], ""
    for element in article.select("strong, details"):
        if element.name == "strong":
            exercise = element.get_text() if element.get_text().startswith("Exercise") else exercise
        elif element.summary and element.summary.get_text(strip=True).startswith("Solution"):
            element.summary.decompose()
            inside = element.extract().decode_contents()
            taken.append(f"<section><h3>{exercise}</h3>{inside}</section>")
        elif "hide" not in element.get("class", ()):
            element["open"] = ""
    return taken


def _rename(article, stem, names):
    """Give each place of a page a name of its own in the whole, and let links lead there."""
    kept = {id(e) for live in article.select(LIVE) for e in [live, *live.select("[id]")]}  # their scripts ask for them
    for element in article.select("[id]"):
        if id(element) not in kept:
            element["id"] = f"{stem}--{element['id']}"
    article["id"] = stem
    for link in article.select("a[href]"):
        page, _, place = link["href"].partition("#")
        if page in names or not page:
            of = PurePosixPath(page).stem if page else stem
            link["href"] = f"#{of}--{place}" if place else f"#{of}"
        elif not re.match(r"[a-z]+:", page):  # a page that is not in the whole
            del link["href"]


def pdf(pages, target):
    """Print the whole book with the Chromium that is installed. Returns the number of sheets."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise OSError(f"no browser is installed that can print: {', '.join(BROWSERS)}")
    whole, target = Path(pages, "book/_whole.html").resolve(), Path(target).resolve()
    whole.write_text(bind(pages), encoding="utf-8")
    target.unlink(missing_ok=True)
    flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync",
             "--disable-component-update", "--no-pdf-header-footer", "--generate-pdf-document-outline"]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container
        flags.append("--no-sandbox")
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            command = [browser, *flags, f"--user-data-dir={profile}", f"--print-to-pdf={target}", whole.as_uri()]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    finally:
        whole.unlink(missing_ok=True)
    if not target.is_file():
        raise OSError(f"{browser} printed nothing: {done.stderr[-800:]}")
    return len(re.findall(rb"/Type\s*/Page\b", target.read_bytes()))


def archive(pages, target):
    """The built pages as a zip with one folder; book/index.html in it opens without a server. Returns their number."""
    pages = Path(pages)
    if not (pages / "book/index.html").is_file():
        raise ValueError(f"pages must be a folder with a built book, not {pages}")
    files = sorted(p for p in pages.rglob("*") if p.is_file())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in files:
            entry = zipfile.ZipInfo(f"spikenb/{path.relative_to(pages).as_posix()}", (2026, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, path.read_bytes())
    return len(files)


def main():
    parser = argparse.ArgumentParser(description="The built pages as one PDF or one zip.")
    parser.add_argument("what", choices=["pdf", "zip"])
    parser.add_argument("pages", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    try:
        count = (pdf if given.what == "pdf" else archive)(given.pages, given.target)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    size = given.target.stat().st_size / 1e6
    print(f"{given.target}: {count} {'sheets' if given.what == 'pdf' else 'files'}, {size:.1f} MB")


if __name__ == "__main__":
    main()
