"""Pictures in the dashboard: which are served, how they are compared, and what cannot be reached through them."""

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
import torch
from paretune.agent.review.app.differences import difference_map, fitting_scale, worst_tile
from paretune.objectives.drift import METRICS
from PIL import Image
from support.browser import CHROMIUM, Browser
from support.page import Page
from support.replayed import ask_optuna, replay, url_of
from support.served import Visitor, served

STUDY = "/studies/replayed"
SIDE_PX = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    replay(folder, side_px=SIDE_PX)
    ask_optuna(folder)
    return folder


@pytest.fixture(scope="module")
def visitor(folder: Path) -> Iterator[Visitor]:
    with served(url_of(folder), folder) as visitor:
        yield visitor


def test_the_worst_pictures_come_first_beside_the_reference(visitor: Visitor) -> None:
    page = Page(visitor.get(f"{STUDY}/pictures?trial=2").text)
    sources = [given["src"] for tag, given in page.tags if tag == "img" and "/thumbs/" in str(given.get("src"))]
    assert sources[:2] == [f"{STUDY}/thumbs/0/cat~1-0.png", f"{STUDY}/thumbs/2/cat~1-0.png"]
    assert len(sources) == 8
    assert "rated same by Ann <A.>" in page.text


def test_the_best_one_is_shown_unless_another_is_asked_for(visitor: Visitor) -> None:
    page = Page(visitor.get(f"{STUDY}/pictures").text)
    (chosen,) = [given for tag, given in page.tags if tag == "option" and "selected" in given]
    assert chosen["value"] == "2"


def test_a_picture_is_served_as_it_was_made_and_smaller(visitor: Visitor, folder: Path) -> None:
    whole = visitor.get(f"{STUDY}/files/2/cat-0.png")
    made = folder / "files" / "replayed" / "trial-0002" / "pictures" / "cat-0.png"
    assert (whole.status, whole.headers["content-type"], whole.body) == (200, "image/png", made.read_bytes())
    small = visitor.get(f"{STUDY}/thumbs/2/cat-0.png?side=160")
    assert small.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(small.body)).width == SIDE_PX
    assert visitor.get(f"{STUDY}/thumbs/2/cat-0.png?side=100000").status == 404


def test_the_same_prompt_is_shown_in_every_configuration(visitor: Visitor) -> None:
    page = Page(visitor.get(f"{STUDY}/pictures/2/dog-0.png").text)
    links = [given["href"] for tag, given in page.tags if tag == "a" and str(given.get("href")).endswith("/dog-0.png")]
    assert {f"{STUDY}/pictures/{number}/dog-0.png" for number in (1, 2, 3, 4, 6, 7)} <= set(links)
    assert "seed 0" in page.text


def test_a_difference_map_is_dark_where_nothing_differs(tmp_path: Path) -> None:
    picture = numpy.full((80, 100, 3), 120, dtype=numpy.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    picture[40:60, 10:30, 1] += 64
    Image.fromarray(picture).save(tmp_path / "b.png")
    full = fitting_scale(tmp_path / "a.png", tmp_path / "b.png")
    assert full == 64
    drawn = numpy.asarray(Image.open(io.BytesIO(difference_map(tmp_path / "a.png", tmp_path / "b.png", full))))
    assert drawn.shape == (80, 100, 3)
    assert drawn[0, 0].max() < 30
    assert drawn[50, 20].min() > 150
    assert fitting_scale(tmp_path / "a.png", tmp_path / "a.png") == 4


def test_the_worst_tile_is_the_one_that_the_metric_means(folder: Path, tmp_path: Path) -> None:
    numbers = numpy.random.default_rng(1)
    for height, width in ((128, 128), (200, 150), (40, 90)):
        one = numbers.integers(0, 255, (height, width, 3), dtype=numpy.uint8)
        other = one.copy()
        other[height // 2 :, : width // 3] = 255 - other[height // 2 :, : width // 3]
        Image.fromarray(one).save(tmp_path / "a.png")
        Image.fromarray(other).save(tmp_path / "b.png")
        tile = worst_tile(tmp_path / "a.png", tmp_path / "b.png")
        assert tile is not None
        tensors = [torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 for p in (one, other)]
        (metric,) = [metric for metric in METRICS if metric.name == "worst_tile_psnr_db"]
        assert tile.psnr_db == pytest.approx(float(metric.compute(*tensors)[0]), abs=0.01)
        assert tile.y + tile.height > height // 2


@pytest.mark.parametrize(
    "path",
    [
        "files/2/log.txt",
        "files/2/..%2flog.txt",
        "files/2/%2e%2e%2f%2e%2e%2fparetune.db",
        "files/2/cat-0.png%00",
        "files/2/evil.html",
        "files/2/evil.png",
        "files/2/linked.png",
        "files/-1/cat-0.png",
        "files/99/cat-0.png",
        "files/5/cat-0.png",
        "differences/2/..%2flog.txt",
        "thumbs/2/evil.png",
        "thumbs/2/linked.png",
        "pictures/2/evil.html",
    ],
)
def test_nothing_but_judged_pictures_is_reached(visitor: Visitor, folder: Path, path: str) -> None:
    """A page among the artefacts, a page that is called a picture, and a link that leads out of the folder."""
    pictures = folder / "files" / "replayed" / "trial-0002" / "pictures"
    for name in ("evil.html", "evil.png"):
        (pictures / name).write_text("<script>alert(1)</script>")
    if not (pictures / "linked.png").is_symlink():
        os.symlink(folder / "paretune.db", pictures / "linked.png")
    answer = visitor.get(f"{STUDY}/{path}", accept="application/json")
    assert answer.status in (404, 409, 422)
    assert b"alert(1)" not in answer.body
    assert b"SQLite" not in answer.body


def test_a_picture_that_became_a_page_is_not_served(tmp_path: Path) -> None:
    replay(tmp_path)
    ask_optuna(tmp_path)
    file = tmp_path / "files" / "replayed" / "trial-0002" / "pictures" / "cat-0.png"
    file.write_text("<html><script>alert(1)</script>")
    cut_off = file.with_name("dog-0.png")
    cut_off.write_bytes(cut_off.read_bytes()[:200])
    with served(url_of(tmp_path), tmp_path) as visitor:
        for place in ("files", "thumbs", "differences"):
            assert visitor.get(f"{STUDY}/{place}/2/cat-0.png").status == 404
        assert visitor.get(f"{STUDY}/thumbs/2/dog-0.png").status == 404
        for name in ("cat-0.png", "dog-0.png"):
            assert "cannot be read" in visitor.get(f"{STUDY}/pictures/2/{name}").text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_comparing_in_a_browser(visitor: Visitor) -> None:
    def press(key: str) -> None:
        event = f"new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true}})"
        browser.evaluate(f"document.body.dispatchEvent({event})")

    def state() -> str:
        return str(browser.evaluate("document.getElementById('stage').dataset.view"))

    with Browser(1280, 900) as browser:
        browser.open(f"{visitor.root}{STUDY}/pictures/2/dog-0.png")
        browser.wait_for(f"document.getElementById('candidate').naturalWidth === {SIDE_PX}")
        assert state() == "wipe"
        browser.evaluate("document.getElementById('wipe').value = 25")
        browser.evaluate("document.getElementById('wipe').dispatchEvent(new Event('input'))")
        assert browser.evaluate("document.getElementById('over').style.clipPath").startswith("inset(0px 0px 0px ")
        press("f")
        press(" ")
        assert browser.evaluate("getComputedStyle(document.getElementById('over')).visibility") == "hidden"
        press(" ")
        assert browser.evaluate("getComputedStyle(document.getElementById('over')).visibility") == "visible"
        press("s")
        press("+")
        layers = "[...document.querySelectorAll('.layer:not([hidden])')].map((one) => one.style.transform)"
        one, other = browser.evaluate(layers)
        assert one == other, "what zooms one picture zooms the other"
        press("t")
        assert browser.evaluate("getComputedStyle(document.querySelector('.frame')).display") == "block"
        press("d")
        browser.wait_for(f"document.getElementById('difference').naturalWidth === {SIDE_PX}")
        assert "view=difference" in browser.evaluate("location.search")
        browser.resize(390, 844)
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        assert browser.console == []
