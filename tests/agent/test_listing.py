"""What `best` says of a trial and what `export` warns of, over a replayed study: nothing is run or timed."""

import json
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.bundle import export
from paretune.agent.results.doubts import doubts
from paretune.agent.results.results import Results
from paretune.studies import Records
from support.launched import Cli, Said
from support.replayed import CACHED, FUSED, NAME, replay, run, url_of

UNCONFIRMED = ("--limit", "latency_ms<400")
"""Conditions that only trial 7 keeps: it ties with the best one, and was not in the blocks."""


class Replayed:
    """A replayed study, and the command line over it."""

    def __init__(self, folder: Path, cli: Cli) -> None:
        self.folder = folder
        self.cli = cli
        folder.mkdir()
        replay(folder, device="cuda")
        self.records = Records(url_of(folder))

    def __call__(self, command: str, *arguments: str) -> Said:
        return self.cli(command, NAME, *arguments, "--storage", url_of(self.folder))

    def json(self, *arguments: str) -> Any:
        return json.loads(self("best", "--json", *arguments).out)

    def change(self, trial: int, **figures: Any) -> None:
        """Write other measurements of one trial."""
        row = next(row for row in self.records.measurements(NAME) if row.trial == trial)
        self.records.update_measurement(NAME, trial, measurements={**row.measurements, **figures})

    def change_calls(self, trial: int, **of_a_shape: Any) -> None:
        """Write other figures of one trial's timed calls."""
        row = next(row for row in self.records.measurements(NAME) if row.trial == trial)
        self.change(trial, latency=[{**shape, **of_a_shape} for shape in row.measurements["latency"]])


@pytest.fixture
def study(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Replayed:
    # What was replayed has no files that a workload's key could be of.
    monkeypatch.setattr(export, "same_workload", lambda record, study: True)
    return Replayed(tmp_path / "study", cli)


def test_the_best_is_shown_with_its_confirmation_its_ties_and_the_noise_floor(study: Replayed) -> None:
    said = study("best").out
    for words in (
        "2.50x (2.48 to 2.52 in 6 blocks)",
        "5.5 s (5.7 s, p50 of 3)",
        "0.28 per 1,000 images, 164 J per image",
        "Trial 2 is confirmed: 2.50 times as fast as the reference (95 % interval 2.48 to 2.52), 2.00 times as fast as",
        "Trial 2 ties with trial 7; of the front's that are surely faster",
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
    assert "Trial 7 was not confirmed in blocks against the reference; paretune compare replayed:reference" in said
    assert "Trial 7 ties with trial 2 in latency." in said
    assert "is confirmed" not in said
    in_memory = study("best", "--by", "peak_vram_gib").out
    assert "Trial 0 ties with" not in in_memory  # 2.00 GiB; the next one has 2.10


def test_a_ratio_that_is_a_tie_is_called_one(study: Replayed) -> None:
    study.change(4, latency_ms=1016.0)
    said = study("best", "--all").out
    assert "0.98x, a tie" in said
    assert "1.11x, ended early" in said
    assert "Trial 0 ties with" not in said  # the notes are the best one's
    reference = study("best", "--limit", "peak_vram_gib<=2.0").out
    assert "Trial 0 ties with trial 4 in latency." in reference


def test_json_says_the_same(study: Replayed) -> None:
    best = study.json()
    assert (best["trial"], best["confirmed"], best["ties_with"], best["tie_with_reference"]) == (2, True, [7], False)
    assert best["times_as_fast"] == pytest.approx(2.5, abs=0.01)
    assert best["noise_floor"]["processes"] == 5
    assert best["noise_floor"]["relative"]["latency_ms"] == pytest.approx(0.023, abs=0.001)
    assert set(best["confirmation"]) == {"reference", "torch_compile"}
    assert best["confirmation"]["reference"]["decision"] == "faster"
    assert (best["cold_start_s"], best["cold_start_measured_s"]) == (5.5, pytest.approx(5.7))
    assert (best["energy_j_per_image"], best["cost_per_1000_images"]) == (
        pytest.approx(164),
        pytest.approx(0.2778, 0.01),
    )
    unsure = study.json(*UNCONFIRMED)
    assert (unsure["trial"], unsure["confirmed"], unsure["confirmation"], unsure["ties_with"]) == (7, False, None, [2])
    assert unsure["doubts"][0].startswith("Trial 7 was not confirmed")
    trials = {trial["trial"]: trial for trial in study.json("--all")}
    assert (trials[5]["confirmed"], trials[5]["times_as_fast"], trials[5]["doubts"]) == (False, None, [])
    assert (trials[6]["ended_early_by"], trials[2]["ended_early_by"]) == (2, None)


def test_without_a_noise_floor_it_is_said_that_there_is_none(tmp_path: Path, cli: Cli) -> None:
    replay(tmp_path, trusted=False)
    arguments = (NAME, "--storage", url_of(tmp_path))
    assert "The noise floor was not measured: small differences may be noise." in cli("best", *arguments).out
    best = json.loads(cli("best", "--json", *arguments).out)
    assert (best["noise_floor"], best["energy_j_per_image"]) == (None, None)


def test_a_confirmed_winner_is_exported_without_a_warning(study: Replayed, tmp_path: Path) -> None:
    said = study("export", "-o", str(tmp_path / "b"))
    assert (said.code, said.err) == (0, "")
    evidence = json.loads((tmp_path / "b" / "evidence" / "measurements.json").read_text())
    assert evidence["schema"] == export.SCHEMA_VERSION
    assert (evidence["confirmed"], evidence["doubts"]) == (True, [])
    assert evidence["confirmation"]["against"]["torch_compile"]["decision"] == "faster"
    first = {"block": 0, "trial": 401.0, "reference": 1001.0, "torch_compile": 803.0}
    assert (len(evidence["confirmation"]["blocks"]), evidence["confirmation"]["blocks"][0]) == (6, first)
    assert json.loads((tmp_path / "b" / export.MANIFEST).read_text())["confirmed"] is True


@pytest.mark.parametrize("choice", [UNCONFIRMED, ("--trial", "7")])
def test_what_was_not_confirmed_is_exported_with_one_warning(
    study: Replayed, tmp_path: Path, choice: tuple[str, str]
) -> None:
    study.change_calls(7, throttled=["hardware slowdown"])
    study.change_calls(4, throttled=["hardware slowdown"])  # nobody's concern here
    said = study("export", "-o", str(tmp_path / "b"), *choice)
    assert said.code == 0
    (warning,) = said.err.splitlines()
    assert warning.startswith("warning: Trial 7 was not confirmed in blocks against the reference; ")
    assert warning.endswith("While it was measured, the GPU was throttled in trial 7.")
    evidence = json.loads((tmp_path / "b" / "evidence" / "measurements.json").read_text())
    assert (evidence["confirmed"], evidence["confirmation"]) == (False, None)
    assert json.loads((tmp_path / "b" / export.MANIFEST).read_text())["confirmed"] is False
    for doubt in evidence["doubts"]:
        assert f"> {doubt}" in (tmp_path / "b" / "README.md").read_text()


def test_a_trial_that_breaks_a_limit_or_was_cut_short_is_exported_with_a_warning(
    study: Replayed, tmp_path: Path
) -> None:
    broken = study("export", "--trial", "3", "-o", str(tmp_path / "b")).err
    assert "Trial 3 breaks the study's limits: pictures are visible, the limit is near-lossless." in broken
    early = study("export", "--trial", "6", "-o", str(tmp_path / "b")).err
    assert "Of trial 6, measuring was ended early, because trial 2 was clearly better in everything" in early


def test_the_reference_alone_needs_no_confirmation(study: Replayed, tmp_path: Path) -> None:
    said = study("export", "--trial", "0", "-o", str(tmp_path / "b"))
    assert (said.code, said.err) == (0, "")


def test_blocks_that_show_no_gain_are_said_to(study: Replayed) -> None:
    for block in range(6):
        for trial, latency_ms in ((0, 400.0 + block), (2, 403.0 - block)):
            study.records.add_run(run("block", trial, block, "cuda", session=2, latency_ms=latency_ms))
    results = Results(study.records, NAME)
    said = doubts(results, results.trial(2))
    assert "Confirming trial 2 did not show a gain: a tie with the reference (95 % interval 1.00 to 1.01" in said[0]
