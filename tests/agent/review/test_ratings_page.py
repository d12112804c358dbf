"""Rating pictures blind in the dashboard, and what the ratings come to."""

import random
from pathlib import Path

import pytest

pytest.importorskip("a2wsgi", reason="the dashboard extra is not installed")
from paretune.agent.results import Results, Trial, people_said
from paretune.agent.review.app.blind import candidates
from paretune.studies import Records
from support.browser import CHROMIUM, Browser
from support.page import Page
from support.replayed import replay, url_of
from support.served import Visitor, served

STUDY = "/studies/replayed"


def test_a_pair_says_nothing_of_its_sides(visitor: Visitor, folder: Path) -> None:
    results = Results(Records(url_of(folder)), "replayed")
    reference = {file.read_bytes() for file in results.reference.pictures()}
    sides = []
    for _ in range(24):
        pair = visitor.post(f"{STUDY}/blind", {"by": "Cy"}).json()
        assert pair["pair"] in pair["left"]
        assert not [word for word in ("trial", "reference", "png") if word in pair["left"] + pair["right"]]
        one, other = (visitor.get(pair[side]) for side in ("left", "right"))
        assert (one.body in reference) != (other.body in reference)
        assert one.headers.keys() == other.headers.keys()
        sides.append(one.body in reference)
    assert {True, False} == set(sides), "the sides are shuffled"


def test_what_is_said_is_stored_as_what_it_means(visitor: Visitor, folder: Path) -> None:
    records = Records(url_of(folder))
    reference = {file.read_bytes() for file in Results(records, "replayed").reference.pictures()}
    expected = []
    for better in ("left", "right", "same", "left", "right"):
        pair = visitor.post(f"{STUDY}/blind", {"by": "Di", "trial": 2}).json()
        if pair["pair"] is None:
            break
        left_is_reference = visitor.get(pair["left"]).body in reference
        assert visitor.post(f"{STUDY}/blind/{pair['pair']}", {"better": better, "by": "Di"}).status == 200
        expected.append(
            "same" if better == "same" else "worse" if (better == "left") == left_is_reference else "better"
        )
    stored = [one for one in records.ratings("replayed") if one.rater == "Di"]
    assert [one.rating for one in stored] == expected
    assert {one.trial for one in stored} == {2}
    assert len({one.picture for one in stored}) == len(expected) == 4, "each of its pictures once"
    assert "rated" in Page(visitor.get(f"{STUDY}/pictures?trial=2").text).text


def test_a_pair_that_was_not_given_is_refused(visitor: Visitor) -> None:
    assert visitor.post(f"{STUDY}/blind/nothing", {"better": "left", "by": "Ed"}).status == 404
    assert visitor.get(f"{STUDY}/blind/nothing/left").status == 404
    pair = visitor.post(f"{STUDY}/blind", {"by": "Ed"}).json()["pair"]
    for said in ({"better": "both", "by": "Ed"}, {"better": "left", "by": " "}, {"better": "left"}):
        assert visitor.post(f"{STUDY}/blind/{pair}", said).status == 422


def test_the_ratings_stand_beside_the_metrics(visitor: Visitor) -> None:
    text = Page(visitor.get(f"{STUDY}/ratings").text).text
    assert "Ann <A.>" in text
    assert "too few: " in text
    assert "paretune calibrate replayed" in text


def test_only_what_was_said_blind_counts(tmp_path: Path) -> None:
    """Who knows which picture is whose sees what they expect: shown, but apart."""
    results = replay(tmp_path, trusted=False)
    for rater in ("Ann", "Bo"):
        results.records.rate("replayed", 2, "cat-0.png", "worse", rater)
    results.records.rate("replayed", 2, "dog-0.png", "same", "Ann", blind=True)
    results.records.rate("replayed", 2, "dog-0.png", "worse", "Ann")  # later, and not blind: the blind one stays
    said = people_said(results)
    assert (said.ratings, said.open_ratings, said.raters) == (1, 3, ["Ann"])
    with served(url_of(tmp_path), tmp_path) as visitor:
        text = Page(visitor.get(f"{STUDY}/ratings").text).text
        assert (
            "1 blind rating of 1 picture by Ann. 3 more were given by people who knew which picture was whose" in text
        )
        pictures = Page(visitor.get(f"{STUDY}/pictures/2/cat-0.png").text).text
        assert "worse than the reference’s, says Ann" in pictures
        assert ", blind)" not in pictures


def test_each_folder_of_pictures_is_looked_through_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair is asked for after every answer, of hundreds of trials with dozens of pictures."""
    results = Results(Records(url_of(folder)), "replayed")
    looked: list[int] = []
    original = Trial.pictures

    def counted(self: Trial) -> list[Path]:
        looked.append(self.number)
        return original(self)

    monkeypatch.setattr(Trial, "pictures", counted)
    assert len(candidates(results, None)) > len(looked)
    assert len(looked) == len(set(looked))


def test_equal_pictures_are_not_asked_about(tmp_path: Path) -> None:
    replay(tmp_path, only=(4,))
    with served(url_of(tmp_path), tmp_path) as visitor:
        visitor.open("/")
        assert visitor.post(f"{STUDY}/blind", {"by": "Flo"}).json() == {"pair": None, "done": 0, "total": 0}


def test_agreement_and_prediction_come_from_all_ratings(tmp_path: Path) -> None:
    """One near-lossless trial and one visible one: people who follow the metric make it predict them."""
    results = replay(tmp_path)
    numbers = random.Random(0)
    for rater in ("Gus", "Hal", "Ida", "Jo", "Kim"):
        for trial in (1, 2, 3, 6, 7):
            for picture in ("cat-0.png", "dog-0.png", "cat~1-0.png", "dog~1-0.png"):
                worse = (trial == 3) != (numbers.random() < 0.05)
                results.records.rate("replayed", trial, picture, "worse" if worse else "same", rater, blind=True)
    said = people_said(results)
    by_name = {one.metric: one for one in said.metrics}
    assert said.agreement is not None
    assert said.agreement > 0.5
    assert by_name["psnr_db"].predicts is not None
    assert by_name["psnr_db"].predicts > 0.9
    assert by_name["psnr_db"].found is not None
    assert 21.0 < by_name["psnr_db"].found.value < 35.5
    assert by_name["ssim"].too_few == "every picture has the same value"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_rating_in_a_browser(visitor: Visitor, folder: Path) -> None:
    with Browser(390, 844) as browser:
        browser.open(f"{visitor.root}{STUDY}/blind?trial=7")
        browser.evaluate("document.getElementById('by').value = 'Lee'")
        browser.evaluate("document.getElementById('who').requestSubmit()")
        for done in range(4):
            browser.wait_for(f"document.getElementById('said').textContent.startsWith('{done} of 4')")
            browser.wait_for("document.getElementById('left').naturalWidth > 0")
            key = ("ArrowLeft", "ArrowRight", " ", "ArrowLeft")[done]
            browser.evaluate(
                f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true}}))"
            )
        browser.wait_for("document.getElementById('said').textContent.includes('Thank you')")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        assert browser.console == []
    assert len([one for one in Records(url_of(folder)).ratings("replayed") if one.rater == "Lee"]) == 4
