"""A launch believes no reference before it has looked at it, and says what it found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.results import DoubtKind
from paretune.agent.trial import Job, TrialResult
from paretune.studies import Outcome, Records, UserError
from support.launched import Cli
from support.launching import tiny_study, write_study
from support.product import request_of, write_product
from support.replaying import World, world_in


def product_study(folder: Path, run: str) -> tuple[str, str]:
    """A study file of the product's own run(), and its storage, for a command."""
    workload = {"python": str(write_product(folder, run)), "requests": [request_of()]}
    content = tiny_study(folder, workload=workload, space={"techniques": {"channels_last": {}}})
    return str(write_study(folder / "study.yaml", content)), f"sqlite:///{folder}/paretune.db"


def test_a_workload_that_returns_0_to_255_ends_the_launch_in_a_sentence(tmp_path: Path, cli: Cli) -> None:
    file, storage = product_study(tmp_path, "return 255 * make(pipelines, request)")
    said = cli("launch", file, "--storage", storage).sentence()
    assert said.startswith(
        "the unchanged pipelines could not be measured: first_call: request cat gave a torch.float32"
    )
    for words in ("with values from ", "(B, 3, H, W)", "[0, 1]", "PIL", "numpy"):
        assert words in said
    assert Records(storage).find_study("tiny") is None, "so the mended file can be launched under the same name"


@pytest.mark.slow
def test_pictures_that_differ_from_process_to_process_end_the_launch(tmp_path: Path, cli: Cli) -> None:
    file, storage = product_study(tmp_path, "return make(pipelines, request, seed=SEED)")
    said = cli("launch", file, "--storage", storage).sentence()
    assert said.startswith("the pictures do not repeat: made by another process of the unchanged pipelines")
    assert "different, cat-0.png most, by up to 2" in said


class TestSaid:
    """What is said of a reference that is worth less than it seems."""

    @pytest.fixture
    def world(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
        return world_in(tmp_path, monkeypatch)

    def judged_as(self, world: World, change: Any) -> None:
        """Let `change` alter what was said of pictures in every process of the world."""
        run = world.run

        def changed(kind: str, job: Job) -> TrialResult:
            result = run(kind, job)
            if "quality" not in result.measurements:
                return result
            quality = change(kind, job, dict(result.measurements["quality"]))
            return replace(result, measurements={**result.measurements, "quality": quality, "drift": quality["drift"]})

        world.run = changed  # type: ignore[method-assign]

    def test_pictures_that_show_nothing_are_named_and_not_made_again(self, world: World) -> None:
        def set_apart(kind: str, job: Job, quality: dict[str, Any]) -> dict[str, Any]:
            *pictures, empty = quality["pictures"]
            reason = "black: the picture is empty: luma varies by 0.00 levels"
            return {**quality, "pictures": pictures, "no_evidence": [{**empty, "no_evidence": reason}]}

        self.judged_as(world, set_apart)
        results = world.launch(world.study("some-empty", ["channels_last"]))
        (doubt,) = [doubt for doubt in results.reference.doubts() if doubt.kind is DoubtKind.NO_EVIDENCE]
        assert str(doubt) in world.notes
        assert str(doubt) == (
            "1 of the reference's 3 pictures shows nothing and is left out of every comparison "
            "(cat~2-0.png: black: the picture is empty: luma varies by 0.00 levels)."
        )
        assert "pictures" not in {kind for kind, _ in world.ran}
        assert {file.name for file in results.trials[1].pictures()} == {"cat-0.png", "cat~1-0.png"}

    def test_a_reference_that_repeats_nearly_is_a_floor_for_drift(self, world: World) -> None:
        near = {"n": 1, "verdict": "imperceptible", "drift": 0.6, "file": "cat-0.png"}
        near["worst_metrics"] = {"max_abs_difference_lsb": 1.0}

        def with_repeat(kind: str, job: Job, quality: dict[str, Any]) -> dict[str, Any]:
            return {**quality, "repeat": near if job.reference_pictures is None else None}

        self.judged_as(world, with_repeat)
        results = world.launch(world.study("nearly", ["channels_last"]))
        assert results.reordering_floor is not None
        assert results.reordering_floor["drift"] == 0.6
        assert results.trials[1].within_reordering_floor() is True
        (doubt,) = [doubt for doubt in results.reference.doubts() if doubt.kind is DoubtKind.UNREPEATABLE]
        assert "the same request again: imperceptible, cat-0.png most, by up to 1 of 255 levels" in str(doubt)

    def test_other_pictures_in_another_process_end_every_launch(self, world: World) -> None:
        def others(kind: str, job: Job, quality: dict[str, Any]) -> dict[str, Any]:
            found = {**quality["pictures"][0], "drift": 3.5, "verdict": "different"}
            return (
                {**quality, "verdict": "different", "drift": 3.5, "pictures": [found]} if kind == "floor" else quality
            )

        self.judged_as(world, others)
        for _ in range(2):
            with pytest.raises(UserError, match=r"the pictures do not repeat: .* different, cat-0.png most"):
                world.launch(world.study("others", ["channels_last"]))
        assert [kind for kind, _ in world.ran] == ["trial", "floor"], "nothing is measured twice to see that"

    def test_a_broken_picture_in_a_block_breaks_the_trial(self, world: World) -> None:
        def broken(job: Job, kind: str) -> TrialResult | None:
            reason = "measure: request cat gave NaN"
            found = kind == "block" and job.configuration["techniques"]
            return TrialResult(outcome=Outcome.INVALID_OUTPUT, reason=reason) if found else None

        world.before = broken
        world.latency_ms = {"channels_last": 500.0}
        finalists = {"count": 1, "blocks": 3, "cold_starts": 0}
        results = world.launch(world.study("breaks", ["channels_last"], finalists=finalists))
        assert results.trials[1].outcome is Outcome.INVALID_OUTPUT
        assert results.best().is_reference
