"""What `best` says of a trial and what `export` warns of, over a replayed study: nothing is run or timed."""

import json
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.bundle import MANIFEST, SCHEMA_VERSION
from paretune.agent.results import Results
from paretune.studies import RunKind
from support.launched import Cli, Said
from support.replayed import CACHED, FUSED, NAME, add, replay, run, timed_again, url_of

UNCONFIRMED = ("--limit", "latency_ms<400")
"""Conditions that only trial 7 keeps: it ties with the best one, and was not in the blocks."""


class Replayed:
    """A replayed study, and the command line over it."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder = folder
        self.cli = cli
        folder.mkdir()
        self.results: Results = replay(folder, device="cuda")

    def __call__(self, command: str, *arguments: str) -> Said:
        return self.cli(command, NAME, *arguments, "--storage", url_of(self.folder))

    def json(self, *arguments: str) -> Any:
        return json.loads(self("best", "--json", *arguments).out)

    def change_calls(self, trial: int, **of_a_shape: Any) -> None:
        """Write that one trial was measured again, with other figures of its timed calls."""
        shapes = self.results.trial(trial).measurements["latency"]
        timed_again(self.results, trial, latency=[{**shape, **of_a_shape} for shape in shapes])


@pytest.fixture
def study(tmp_path: Path, cli: Cli) -> Replayed:
    return Replayed(tmp_path / "study", cli)


def test_the_best_is_shown_with_its_confirmation_its_ties_and_the_noise_floor(study: Replayed) -> None:
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


def test_figures_stand_in_columns_and_a_failed_trial_has_its_reason(study: Replayed) -> None:
    heading, *lines = study("best", "--all").out.splitlines()
    figures, done = lines[:16:2], lines[1:16:2]
    assert [line.split()[0] for line in figures] == [str(number) for number in range(8)]
    assert {line.index("GiB") for line in figures if "GiB" in line} == {heading.index("peak memory") + len("2.00 ")}
    assert figures[5].split() == ["5", "apply_error"]
    assert done[5].strip() == f"{FUSED}: apply: it <broke>"


def test_whatever_is_chosen_says_what_it_ties_with_and_that_it_was_not_confirmed(study: Replayed) -> None:
    said = study("best", *UNCONFIRMED).out
    assert (
        "Trial 7 is unconfirmed: it was not measured in blocks against the reference; paretune compare replayed:refer"
        in said
    )
    assert "Trial 7 ties with trial 2 in latency." in said
    assert "is confirmed" not in said
    in_memory = study("best", "--by", "peak_vram_gib").out
    assert "Trial 0 ties with" not in in_memory  # 2.00 GiB; the next one has 2.10


def test_a_ratio_that_is_a_tie_is_called_one(study: Replayed) -> None:
    timed_again(study.results, 4, latency_ms=1016.0)
    said = study("best", "--all").out
    assert "0.98x, a tie, unconfirmed" in said
    assert "1.11x, unconfirmed, ended early" in said
    assert "Trial 0 ties with" not in said  # the notes are the best one's
    reference = study("best", "--limit", "peak_vram_gib<=2.0").out
    assert "Trial 0 ties with trial 4 in latency." in reference


def test_json_says_the_same(study: Replayed) -> None:
    best = study.json()
    assert (best["study"], best["number"], best["confirmed"], best["ties_with"]) == (NAME, 2, True, [7])
    assert best["headline"].startswith("2.50 times as fast as the reference")
    assert (best["speed"]["tie"], best["speed"]["unconfirmed"], best["speed"]["blocks"]) == (False, False, 6)
    assert best["speed"]["times"] == pytest.approx(2.5, abs=0.01)
    assert best["speed"]["text"] == "2.50x (2.48 to 2.52 in 6 blocks)"
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


def test_the_whole_study_is_printed_as_json(study: Replayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    view = json.loads(study("report", "--json").out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["study"], "no report is written"
    assert (view["reference"], view["torch_compile"], view["best"], view["front"]) == (0, 1, 2, [7, 2, 1, 0])
    assert view["floor"]["figures"]["latency_ms"]["value"] == pytest.approx(0.023, abs=0.001)
    assert view["floor"]["processes"] == 5
    assert view["limits"] == ["pictures near-lossless or better"]
    assert study.json("--all")[2] == {"study": NAME, **view["rows"][2]}


def test_without_a_noise_floor_it_is_said_that_there_is_none(tmp_path: Path, cli: Cli) -> None:
    replay(tmp_path, trusted=False)
    arguments = (NAME, "--storage", url_of(tmp_path))
    assert "The noise floor was not measured: small differences may be noise." in cli("best", *arguments).out
    assert json.loads(cli("report", "--json", *arguments).out)["floor"] is None
    assert "energy_j" not in json.loads(cli("best", "--json", *arguments).out)["figures"]


def test_a_confirmed_winner_is_exported_without_a_warning(study: Replayed, tmp_path: Path) -> None:
    said = study("export", "-o", str(tmp_path / "b"))
    assert (said.code, said.err) == (0, "")
    evidence = json.loads((tmp_path / "b" / "evidence" / "measurements.json").read_text())
    assert evidence["schema"] == SCHEMA_VERSION
    assert (evidence["confirmed"], evidence["doubts"]) == (True, [])
    assert evidence["confirmation"]["against"]["torch_compile"]["decision"] == "faster"
    first = {"block": 0, "trial": 401.0, "reference": 1001.0, "torch_compile": 803.0}
    assert (len(evidence["confirmation"]["blocks"]), evidence["confirmation"]["blocks"][0]) == (6, first)
    assert json.loads((tmp_path / "b" / MANIFEST).read_text())["confirmed"] is True


@pytest.mark.parametrize("choice", [UNCONFIRMED, ("--trial", "7")])
def test_what_was_not_confirmed_is_exported_with_one_warning(
    study: Replayed, tmp_path: Path, choice: tuple[str, str]
) -> None:
    study.change_calls(7, throttled=["hardware slowdown"])
    study.change_calls(4, throttled=["hardware slowdown"])  # nobody's concern here
    said = study("export", "-o", str(tmp_path / "b"), *choice)
    assert said.code == 0
    (warning,) = said.err.splitlines()
    assert warning.startswith("warning: Trial 7 is unconfirmed: it was not measured in blocks against the reference; ")
    assert warning.endswith("During the measurements, the GPU was throttled in trial 7.")
    evidence = json.loads((tmp_path / "b" / "evidence" / "measurements.json").read_text())
    assert (evidence["confirmed"], evidence["confirmation"]) == (False, None)
    assert json.loads((tmp_path / "b" / MANIFEST).read_text())["confirmed"] is False
    for doubt in evidence["doubts"]:
        assert f"> {doubt}" in (tmp_path / "b" / "README.md").read_text()


def test_a_trial_that_breaks_a_limit_or_was_cut_short_is_exported_with_a_warning(
    study: Replayed, tmp_path: Path
) -> None:
    broken = study("export", "--trial", "3", "-o", str(tmp_path / "b")).err
    assert "Trial 3 breaks the study's limits: pictures are visible, the limit is near-lossless." in broken
    early = study("export", "--trial", "6", "-o", str(tmp_path / "b")).err
    assert (
        "The figures of trial 6 are rough: measuring ended early because trial 2 was clearly better in everything."
        in early
    )


def test_the_reference_alone_needs_no_confirmation(study: Replayed, tmp_path: Path) -> None:
    said = study("export", "--trial", "0", "-o", str(tmp_path / "b"))
    assert (said.code, said.err) == (0, "")


def test_blocks_that_show_no_gain_are_said_to(study: Replayed) -> None:
    for block in range(6):
        for trial, latency_ms in ((0, 400.0 + block), (2, 403.0 - block)):
            add(study.results, run(RunKind.BLOCK, trial, block, "cuda", session=2, latency_ms=latency_ms))
    said = map(str, study.results.trial(2).doubts())
    assert "Confirming trial 2 did not show a gain: a tie with the reference (95 % interval 1.00 to 1.01" in next(said)
