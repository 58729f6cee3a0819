"""Shared by the tests: the repository's folders, the chapters as notebooks, the built book and a browser."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "book").glob("[0-9]*.ipynb"))


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request):
    """Each executed chapter's path in turn."""
    return request.param


@pytest.fixture
def notebook(chapter):
    return nbformat.read(chapter, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cpu_seconds():
    """What finished child processes have used; a busy machine does not stretch it as it does the wall time."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The book built from scratch from a copy of what a build reads, as the README's line builds it: the folder, and
    the seconds of CPU. Workers of one run share it."""
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    copy = (tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()) / "built-book"
    with FileLock(f"{copy}.lock"):
        if not (copy / "seconds").exists():
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for part in ("_config.yml", "_toc.yml", "book", "assets", "results"):
                source = ROOT / part
                (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / part)
            command = "from jupyter_book.cli.main import main; main()"
            start = cpu_seconds()
            done = subprocess.run(
                [sys.executable, "-c", command, "build", ".", "-n", "-W", "--keep-going"],
                cwd=copy,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
            (copy / "seconds").write_text(str(cpu_seconds() - start))
    return copy / "_build/html", float((copy / "seconds").read_text())


@pytest.fixture(scope="session")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with chromedriver is installed here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking",
                 "disable-component-update", "disable-sync", "disable-quic", "hide-scrollbars"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def visit(browser, built, page, width=1280, theme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", dict(width=width, height=900, deviceScaleFactor=1, mobile=False)
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", dict(features=[dict(name="prefers-color-scheme", value=theme)])
    )
    browser.get_log("browser"), browser.get_log("performance")
    browser.get((built[0] / f"book/{page}.html").as_uri())
    wait(browser, "return document.readyState === 'complete' && !(window.MathJax && !(MathJax.startup || {}).promise)")
    browser.execute_async_script(
        "const maths = window.MathJax ? MathJax.startup.promise : Promise.resolve(); maths.then(() => arguments[0]())"
    )


def wait(browser, script, seconds=20):
    end = time.monotonic() + seconds
    while not browser.execute_script(script):
        assert time.monotonic() < end, script
        time.sleep(0.05)
