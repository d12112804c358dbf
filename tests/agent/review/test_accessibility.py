"""Every page of the dashboard, judged by axe-core, at a desk and on a phone, light and dark: no serious fault."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from support.browser import CHROMIUM, Browser
from support.replayed import ask_optuna, replay, url_of
from support.served import Visitor, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
VENDOR = Path(__file__).parents[2] / "support" / "vendor"
AXE = VENDOR / "axe.min.js"
STUDY = "/studies/replayed"
PAGES = (
    "/",
    STUDY,
    f"{STUDY}/trials/2",
    f"{STUDY}/trials/5",
    f"{STUDY}/pictures",
    f"{STUDY}/pictures/2/dog-0.png",
    f"{STUDY}/ratings",
    f"{STUDY}/blind",
    f"{STUDY}/choose/2",
    f"{STUDY}/chosen",
    "/login",
    "/nowhere",
)


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    folder = tmp_path_factory.mktemp("study")
    replay(folder)
    ask_optuna(folder)
    with served(url_of(folder), folder) as visitor:
        visitor.open("/")
        visitor.post(f"{STUDY}/choose/2", {"by": "Ann", "note": "fast, and nobody sees a difference"})
        yield visitor


def faults(browser: Browser) -> list[Any]:
    """The rules that the page breaks seriously, and where."""
    browser.evaluate(AXE.read_text() + "; true")
    found = browser.evaluate(
        "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']}).then((all) => all.violations"
        ".filter((one) => ['serious', 'critical'].includes(one.impact))"
        ".map((one) => [one.id, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160))]))"
    )
    return list(found)


@pytest.mark.parametrize(
    ("width", "scheme"),
    [(1280, "light"), pytest.param(390, "dark", marks=pytest.mark.slow)],
)
def test_no_page_has_a_serious_fault(visitor: Visitor, width: int, scheme: str) -> None:
    with Browser(width, 844, scheme) as browser:
        for path in PAGES:
            browser.open(visitor.root + path)
            assert faults(browser) == [], path
            assert browser.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_vendored_file_is_the_registrys() -> None:
    (known,) = re.findall(r"`axe\.min\.js`.*`(\w{64})`", (VENDOR / "README.md").read_text())
    assert hashlib.sha256(AXE.read_bytes()).hexdigest() == known
