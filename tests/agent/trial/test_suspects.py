"""The reference is a suspect too, and a trial is judged by the worst it does: what a process makes of odd pictures."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.trial import PICTURES, Job
from paretune.agent.trial.process import run_trial
from paretune.objectives.measuring import Plan
from paretune.search_space import Configuration
from paretune.studies import Outcome
from support.product import product_trial, request_of

FINE = "return make(pipelines, request)"
CAT, DOG = request_of("cat"), request_of("dog", seed=1)
PLAN = Plan(calls=5, most_calls=10, warm_up_calls=2, memory=False, stages=False, pictures=("cat", "dog"))
Result = dict[str, Any]


def run_process(folder: Path, run: str, apply: str = "pass", reference: Path | None = None) -> Result:
    """What a trial's process says, run in this one."""
    folder.mkdir()
    trial = product_trial(folder, run, apply, [CAT, DOG])
    job = Job(
        folder=str(trial),
        device="cpu",
        configuration=Configuration().to_dict(),
        apply_py="",
        workload={},
        plan=asdict(PLAN),
        reference_pictures=None if reference is None else str(reference / "trial" / PICTURES),
        quality_assessed=True,
        technique_files=[],
        import_s=0.0,
    )
    run_trial(job)
    return dict(json.loads((trial / "result.json").read_text()))


@pytest.fixture
def reference(tmp_path: Path) -> Callable[[str], Result]:
    return lambda run: run_process(tmp_path / "reference", run)


def refused(result: Result) -> str:
    assert result["outcome"] == Outcome.INVALID_OUTPUT
    assert "\n" not in result["reason"]
    return str(result["reason"])


def test_a_reference_whose_pictures_are_all_empty_proves_nothing(reference: Callable[[str], Result]) -> None:
    reason = refused(reference(FINE + " * 0"))
    assert reason.startswith("all 2 pictures show nothing (cat-0.png: black: the picture is empty: luma varies by 0.00")
    assert reason.endswith("the usual cause is a safety checker that blackens pictures: load the pipelines without it")


def test_nor_does_one_whose_pictures_are_blown_out(reference: Callable[[str], Result]) -> None:
    reason = refused(reference("return (1000 * make(pipelines, request) - 500).clamp(0, 1)"))
    assert "all 2 pictures show nothing (cat-0.png: clipped: the picture is blown out: 9" in reason


def test_pictures_that_show_nothing_are_left_out_of_every_comparison(tmp_path: Path) -> None:
    blackened = "return make(pipelines, request) * (request.name != 'cat')"
    before = run_process(tmp_path / "reference", blackened)
    # A trial that makes something else of the cat, and the same dog.
    after = run_process(tmp_path / "trial", FINE, reference=tmp_path / "reference")
    for result in (before, after):
        assert result["outcome"] == Outcome.COMPLETE
        quality = result["measurements"]["quality"]
        assert [picture["file"] for picture in quality["pictures"]] == ["dog-0.png"]
        assert [picture["file"] for picture in quality["no_evidence"]] == ["cat-0.png"]
        assert quality["no_evidence"][0]["no_evidence"].startswith("black: the picture is empty")
        assert (quality["n"], quality["verdict"], quality["drift"]) == (1, "bit-exact", 0)


def test_a_reference_without_a_seed_is_refused_with_the_difference(reference: Callable[[str], Result]) -> None:
    reason = refused(reference("return make(pipelines, request, seed=len(CALLS))"))
    assert reason.startswith(
        "the pictures do not repeat: made again in the same process, they are different, cat-0.png"
    )
    assert "of 255 levels" in reason
    assert "generator=torch.Generator().manual_seed(request.seed)" in reason


def test_also_when_only_a_later_request_does_not_repeat(reference: Callable[[str], Result]) -> None:
    run = "return make(pipelines, request, seed=len(CALLS) if request.name == 'dog' else 0)"
    assert "dog-0.png most" in refused(reference(run))


ROUNDED = "return (make(pipelines, request) + len(CALLS) % 2 / 255).clamp(0, 1)"


def test_a_reference_that_is_a_level_off_is_measured_and_its_own_drift_kept(reference: Callable[[str], Result]) -> None:
    result = reference(ROUNDED)
    assert result["outcome"] == Outcome.COMPLETE
    quality = result["measurements"]["quality"]
    assert (quality["verdict"], quality["drift"]) == ("bit-exact", 0), "of what it made first"
    assert quality["repeat"]["verdict"] == "imperceptible"
    assert 0 < quality["repeat"]["drift"] <= 1
    assert quality["repeat"]["worst_metrics"]["max_abs_difference_lsb"] == 1
    assert result["measurements"]["repeat_max_difference"] == pytest.approx(1 / 255, abs=1e-4)


SPOILT = "{}\n    main = pipelines['main']\n    inner, calls = main.unet.forward, []\n    def spoilt(noise):\n"
SPOILT += "        calls.append(1)\n        return inner(noise) * (factor if len(calls) == 5 else 1)\n"
SPOILT += "    main.unet.forward = spoilt"


@pytest.mark.parametrize(
    ("factor", "reason"),
    [("float('nan')", "measure: request cat gave "), ("0.0", "cat-0.png: black: the picture is empty")],
)
def test_what_a_technique_breaks_in_its_fifth_call_is_seen(tmp_path: Path, factor: str, reason: str) -> None:
    run_process(tmp_path / "reference", FINE)
    apply = SPOILT.format(f"factor = {factor}")
    result = run_process(tmp_path / "trial", FINE, apply, reference=tmp_path / "reference")
    assert refused(result).startswith(reason)


def test_the_worse_of_two_answers_to_the_same_request_is_judged(tmp_path: Path) -> None:
    run_process(tmp_path / "reference", FINE)
    apply = SPOILT.format("factor = 0.9")
    result = run_process(tmp_path / "trial", FINE, apply, reference=tmp_path / "reference")
    assert result["outcome"] == Outcome.COMPLETE
    cat, dog = result["measurements"]["quality"]["pictures"]
    assert (cat["verdict"], dog["verdict"]) == ("visible", "bit-exact")
    assert any(flag.startswith("repeat: ") for flag in cat["flags"])


def test_pictures_of_another_size_are_broken(tmp_path: Path) -> None:
    run_process(tmp_path / "reference", FINE)
    result = run_process(tmp_path / "trial", FINE + "[..., :16]", reference=tmp_path / "reference")
    assert refused(result) == "cat-0.png: size: the picture has 16 x 32 px, before 32 x 32"
