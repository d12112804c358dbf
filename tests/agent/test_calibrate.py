"""`paretune calibrate`: what it says of people's ratings, and what it writes into a study."""

import random
from pathlib import Path

from paretune.agent.results import Results
from paretune.studies import Records, RunKind
from support.launched import Cli
from support.replayed import NAME, replay, url_of

RATERS = ("Ann", "Bo", "Cy", "Di", "Ed")
FILES = ("cat-0.png", "dog-0.png", "cat~1-0.png", "dog~1-0.png")


def rate(results: Results) -> None:
    """Five people call the pictures of the trial with the lowest PSNR worse, and err now and then."""
    careless = random.Random(0)
    for rater in RATERS:
        for trial in (1, 2, 3, 6, 7):
            for file in FILES:
                worse = (trial == 3) != (careless.random() < 0.06)
                results.records.rate(NAME, trial, file, "worse" if worse else "same", rater, blind=True)


def test_it_says_each_metrics_threshold_and_how_sure_it_is(tmp_path: Path, cli: Cli) -> None:
    rate(replay(tmp_path))
    said = cli("calibrate", NAME, "--storage", url_of(tmp_path))
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("101 ratings of 20 pictures by 6 people; agreement: alpha 0.")
    (psnr,) = [line for line in lines if line.startswith("  psnr_db: ")]
    assert "psnr_db: >= 28.25 (95 % interval " in psnr
    assert psnr.endswith("% of the ratings (near-lossless asks for >= 35)")
    assert "  ssim: every picture has the same value (near-lossless asks for >= 0.95)" in lines


def test_too_few_ratings_are_said_to_be_too_few(tmp_path: Path, cli: Cli) -> None:
    replay(tmp_path)
    said = cli("calibrate", NAME, "--storage", url_of(tmp_path))
    assert 'too few: 1 rating of 1 picture, 0 of them "worse"; it takes 40 of 20' in said.out
    assert "no metric has enough ratings" in cli("calibrate", NAME, "--write", "--storage", url_of(tmp_path)).sentence()


def test_without_ratings_it_says_where_to_give_them(tmp_path: Path, cli: Cli) -> None:
    replay(tmp_path, trusted=False)
    assert (
        "blind yet: paretune dashboard has a mode for that" in cli("calibrate", NAME, "--storage", url_of(tmp_path)).out
    )


def test_it_writes_the_thresholds_into_the_study_on_request(tmp_path: Path, cli: Cli) -> None:
    """The study's pictures are then judged by them: here those of trial 3, at 38.6 dB by now, become near-lossless."""
    results = replay(tmp_path, only=(1, 2, 3, 6, 7))
    before = results.record.workload_key
    rate(results)
    said = cli("calibrate", NAME, "--write", "--storage", url_of(tmp_path))
    assert said.code == 0, said.err
    assert "pictures of replayed were judged again" in said.out
    assert "To continue it, launch it with --set 'quality.near_lossless={" in said.out
    after = Results(Records(url_of(tmp_path)), NAME)
    assert after.study.quality.near_lossless["psnr_db"] == 28.25
    assert after.record.workload_key != before
    assert len(after.runs(RunKind.REJUDGE)) == 6
