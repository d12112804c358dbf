"""What `best` says of a trial, over a replayed study: nothing is run or timed."""

import json
from pathlib import Path

import pytest
from paretune.studies import RunKind
from support.launched import Cli
from support.replayed import CACHED, FUSED, NAME, add, replay, run, timed_again, url_of
from support.replayed_cli import UNCONFIRMED, ReplayedCli


def test_the_best_is_shown_with_its_confirmation_its_ties_and_the_noise_floor(study: ReplayedCli) -> None:
    said = study("best").out
    for words in (
        "2.50x (2.48 to 2.52 in 6 blocks)",
        "5.7 s (median of 3; estimated 5.5 s)",
        "0.28 per 1,000 images, 164 J per image",
        "Trial 2 is confirmed: 2.50 times as fast as the reference (95 % interval 2.48 to 2.52), 2.00 times as fast as",
        "Trial 2 ties with trial 7 in latency. Of configurations that tie in latency, the best is one that was",
        "Drift is compared on the 4 pictures that every trial has",
        "Noise floor: 2.3% in latency and 0.9% in memory",
    ):
        assert words in said
    assert str(CACHED) in map(str.strip, said.splitlines()), "whole, whatever the terminal's width"


def test_figures_stand_in_columns_and_a_failed_trial_has_its_reason(study: ReplayedCli) -> None:
    heading, *lines = study("best", "--all").out.splitlines()
    figures, done = lines[:16:2], lines[1:16:2]
    assert [line.split()[0] for line in figures] == [str(number) for number in range(8)]
    assert {line.index("GiB") for line in figures if "GiB" in line} == {heading.index("peak memory") + len("2.00 ")}
    assert figures[5].split() == ["5", "apply_error"]
    assert done[5].strip() == f"{FUSED}: apply: it <broke>"


def test_whatever_is_chosen_says_what_it_ties_with_and_that_it_was_not_confirmed(study: ReplayedCli) -> None:
    said = study("best", *UNCONFIRMED).out
    assert (
        "Trial 7 is unconfirmed: it was not measured in blocks against the reference; paretune compare replayed:refer"
        in said
    )
    assert "Trial 7 ties with trial 2 in latency." in said
    assert "is confirmed" not in said
    in_memory = study("best", "--by", "peak_vram_gib").out
    assert "Trial 0 ties with" not in in_memory  # 2.00 GiB; the next one has 2.10


def test_a_ratio_that_is_a_tie_is_called_one(study: ReplayedCli) -> None:
    timed_again(study.results, 4, latency_ms=1016.0)
    said = study("best", "--all").out
    assert "0.98x, a tie, unconfirmed" in said
    assert "1.11x, unconfirmed, ended early" in said
    assert "Trial 0 ties with" not in said  # the notes are the best one's
    reference = study("best", "--limit", "peak_vram_gib<=2.0").out
    assert "Trial 0 ties with trial 4 in latency." in reference


def test_json_says_the_same(study: ReplayedCli) -> None:
    best = study.json()
    assert (best["study"], best["number"], best["confirmed"], best["ties_with"]) == (NAME, 2, True, [7])
    assert best["headline"].startswith("2.50 times as fast as the reference")
    assert (best["speed"]["tie"], best["speed"]["unconfirmed"], best["speed"]["blocks"]) == (False, False, 6)
    assert best["speed"]["times"] == pytest.approx(2.5, abs=0.01)
    assert best["speed_text"] == "2.50x (2.48 to 2.52 in 6 blocks)"
    assert set(best["confirmation"]) == {"reference", "torch_compile"}
    assert best["confirmation"]["reference"]["decision"] == "faster"
    assert best["confirmation"]["reference"]["times"] == best["speed"]["times"]
    assert best["figures"]["cold_start_s"] == {"value": 5.5, "text": "5.5 s"}
    assert (best["cold_start_measured"]["cold_start_s"], best["cold_start_measured"]["n"]) == (pytest.approx(5.7), 3)
    assert best["figures"]["energy_j"]["value"] == pytest.approx(164)
    assert best["cost_per_1000_images"] == pytest.approx(0.2778, 0.01)
    unsure = study.json(*UNCONFIRMED)
    assert (unsure["number"], unsure["confirmed"], unsure["confirmation"]) == (7, False, None)
    assert unsure["ties_with"] == [2]
    assert unsure["doubts"][0].startswith("Trial 7 is unconfirmed")
    trials = {trial["number"]: trial for trial in study.json("--all")}
    assert (trials[5]["confirmed"], trials[5]["speed"], trials[5]["doubts"]) == (False, None, [])
    assert (trials[6]["ended_early_by"], trials[2]["ended_early_by"]) == (2, None)


def test_the_whole_study_is_printed_as_json(
    study: ReplayedCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    view = json.loads(study("report", "--json").out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["study"], "no report is written"
    assert (view["reference"], view["torch_compile"], view["best"], view["front"]) == (0, 1, 2, [7, 2, 1, 0])
    assert view["floor"]["floors"]["latency_ms"] == pytest.approx(0.023, abs=0.001)
    assert view["floor"]["processes"] == 5
    assert view["limits"] == ["pictures near-lossless or better"]
    assert study.json("--all")[2] == {"study": NAME, **view["rows"][2]}


def test_without_a_noise_floor_it_is_said_that_there_is_none(tmp_path: Path, cli: Cli) -> None:
    replay(tmp_path, trusted=False)
    arguments = (NAME, "--storage", url_of(tmp_path))
    assert "The noise floor was not measured: small differences may be noise." in cli("best", *arguments).out
    assert json.loads(cli("report", "--json", *arguments).out)["floor"] is None
    assert "energy_j" not in json.loads(cli("best", "--json", *arguments).out)["figures"]


def test_blocks_that_show_no_gain_are_said_to(study: ReplayedCli) -> None:
    for block in range(6):
        for trial, latency_ms in ((0, 400.0 + block), (2, 403.0 - block)):
            add(study.results, run(RunKind.BLOCK, trial, block, "cuda", session=2, latency_ms=latency_ms))
    said = map(str, study.results.trial(2).doubts())
    assert "Confirming trial 2 did not show a gain: a tie with the reference (95 % interval 1.00 to 1.01" in next(said)
