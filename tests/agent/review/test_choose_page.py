"""Choosing a configuration in the dashboard and exporting it: what is stored, and that the bundle is a bundle."""

import io
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from paretune.agent.bundle import open_bundle
from paretune.studies import Records
from support.browser import CHROMIUM, Browser
from support.page import Page
from support.replayed import HOSTILE, ask_optuna, replay, url_of
from support.served import Visitor, served

STUDY = "/studies/replayed"


def exported(visitor: Visitor, number: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = visitor.get(f"{STUDY}/export/{number}").json()
        if state["state"] in ("done", "failed"):
            return dict(state)
        time.sleep(0.05)
    raise AssertionError(state)


def test_a_choice_is_kept_with_its_note(visitor: Visitor, folder: Path) -> None:
    assert visitor.post(f"{STUDY}/choose/2", {"by": " Ann ", "note": HOSTILE}).status == 200
    (choice,) = Records(url_of(folder)).choices("replayed")
    assert (choice.trial, choice.chosen_by, choice.note) == (2, "Ann", HOSTILE)
    for path in (f"{STUDY}/chosen", f"{STUDY}/choose/2"):
        page = Page(visitor.get(path).text)
        assert HOSTILE in page.text
        assert not [given for _, given in page.tags if "onerror" in given]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"by": "  "}, "by: String should have at least 1 character"),
        ({"by": "x" * 81}, "by: String should have at most 80 characters"),
        ({"by": "Ann", "note": "x" * 5001}, "note: String should have at most 5000 characters"),
        ({}, "by: Field required"),
        ({"by": 3}, "by: Input should be a valid string"),
        ({"by": "Ann\u202enaD"}, "by: Value error, it has signs that cannot be seen"),
        ({"by": "Ann", "note": "fast\x00"}, "note: Value error, it has signs that cannot be seen"),
    ],
)
def test_a_choice_needs_a_name_and_a_note_of_some_length(visitor: Visitor, said: dict[str, Any], why: str) -> None:
    answer = visitor.post(f"{STUDY}/choose/1", said)
    assert answer.status == 422
    assert why in answer.json()["error"]


def test_only_what_was_measured_can_be_chosen(visitor: Visitor) -> None:
    assert visitor.post(f"{STUDY}/choose/99", {"by": "Ann"}).status == 409
    failed = visitor.post(f"{STUDY}/choose/5", {"by": "Ann"})
    assert failed.json()["error"] == "trial 5 of replayed ended as apply_error: apply: it <broke>"


def test_the_page_says_what_changes_and_what_speaks_against_it(visitor: Visitor, folder: Path) -> None:
    text = Page(visitor.get(f"{STUDY}/choose/2").text).text
    assert "latency 1.00 s 401 ms -60 %" in text
    assert "cold start 5.5 s 5.5 s the same" in text
    text = Page(visitor.get(f"{STUDY}/choose/3").text).text
    assert "pictures are visible, the limit is near-lossless" in text
    words = "".join(text.partition("The command that does the same: ")[2].partition(" Then")[0])
    assert words.startswith("paretune export replayed --trial 3 -o")
    assert words.endswith(f"--storage {url_of(folder)}")


def test_a_bundle_is_written_and_can_be_downloaded(visitor: Visitor, tmp_path: Path) -> None:
    assert visitor.get(f"{STUDY}/export/2").status == 404
    assert visitor.get(f"{STUDY}/export/2/zip").status == 404
    assert visitor.post(f"{STUDY}/export/2", {}).json()["state"] == "waiting"
    state = exported(visitor, 2)
    assert state["state"] == "done", state
    archive = visitor.get(f"{STUDY}/export/2/zip")
    assert archive.headers["content-type"] == "application/zip"
    assert 'filename="replayed-trial-2.zip"' in archive.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(archive.body)) as files:
        files.extractall(tmp_path)
    bundle = open_bundle(tmp_path / "replayed-trial-2", tmp_path / "copy")
    assert (bundle.manifest.study, bundle.manifest.trial) == ("replayed", 2)


def test_many_ask_for_exports_at_once(visitor: Visitor) -> None:
    """Each bundle is written once, and the one that is there can be downloaded until the new one is whole."""
    visitor.post(f"{STUDY}/export/4", {})
    exported(visitor, 4)
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda number=number: answers.append(visitor.post(f"{STUDY}/export/{number}", {}).status)
        )
        for number in (2, 4, 2, 4, 7, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 6
    for number in (2, 4, 7):
        assert exported(visitor, number)["state"] == "done"
        with zipfile.ZipFile(io.BytesIO(visitor.get(f"{STUDY}/export/{number}/zip").body)) as files:
            assert files.testzip() is None


@pytest.mark.parametrize("number", ["99", "5", "-1", "9" * 30])
def test_what_was_not_measured_cannot_be_exported(visitor: Visitor, number: str) -> None:
    assert visitor.post(f"{STUDY}/export/{number}", {}).status == 409
    assert visitor.get(f"{STUDY}/export/{number}/zip").status == 404


def test_an_export_that_fails_says_why(tmp_path: Path) -> None:
    replay(tmp_path, kind="contradicted")
    ask_optuna(tmp_path)
    with served(url_of(tmp_path), tmp_path) as visitor:
        visitor.open("/")
        visitor.post(f"{STUDY}/export/2", {})
        state = exported(visitor, 2)
        assert state["state"] == "failed"
        assert "is unconfirmed, and the machine changed too much" in state["text"]
        visitor.post(f"{STUDY}/export/2", {"unconfirmed": True})
        assert exported(visitor, 2)["state"] == "done"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_choosing_in_a_browser(visitor: Visitor, folder: Path) -> None:
    with Browser(390, 844) as browser:
        browser.open(f"{visitor.root}{STUDY}/choose/7")
        browser.evaluate("document.getElementById('by').value = 'Bo'")
        browser.evaluate("document.getElementById('note').value = 'fits the small card'")
        browser.evaluate("document.getElementById('confirm').requestSubmit()")
        browser.wait_for("document.readyState === 'complete' && document.body.innerText.includes('by Bo, ')")
        browser.evaluate("document.getElementById('export').requestSubmit()")
        browser.wait_for("!document.getElementById('ready').hidden")
        assert browser.evaluate("document.querySelector('#ready a').href").endswith(f"{STUDY}/export/7/zip")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        assert browser.console == []
    assert [choice.note for choice in Records(url_of(folder)).choices("replayed") if choice.trial == 7] == [
        "fits the small card"
    ]
