"""What is kept of a process's pictures: their judgement, which prompt they are of, and what they were decoded from."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paretune.agent.trial.judge import judge_made, save_latents
from paretune.objectives import learned
from paretune.objectives.judging import Judge
from paretune.objectives.latents import COSINE, RELATIVE_L2
from paretune.objectives.learned import LearnedMetric
from paretune.objectives.measuring import Made
from torch import Tensor

PROMPTS = {"cat": "a cat", "cat~1": "a cat", "dog": "a dog"}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pictures() -> dict[str, Tensor]:
    return {name: random(2, 3, 32, 32, seed=seed) for seed, name in enumerate(PROMPTS)}


@pytest.fixture
def latents() -> dict[str, Tensor]:
    return {name: random(2, 4, 4, 4, seed=seed) - 0.5 for seed, name in enumerate(PROMPTS)}


@pytest.fixture
def reference(tmp_path: Path, pictures: dict[str, Tensor], latents: dict[str, Tensor]) -> Path:
    """The folder with the reference's pictures, beside which its latents lie."""
    folder = tmp_path / "trial-0000"
    (folder / "pictures").mkdir(parents=True)
    quality = judge_made(Judge(), folder / "pictures", Made(pictures, latents=latents), None, PROMPTS)
    assert quality["verdict"] == "bit-exact"
    assert quality["worst_metrics"][RELATIVE_L2] == 0
    assert quality["worst_metrics"][COSINE] == 1
    save_latents(folder / "latents", latents)
    return folder / "pictures"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "trial-0001" / "pictures"
    folder.mkdir(parents=True)
    return folder


def test_pictures_of_one_prompt_are_one_piece_of_evidence(
    reference: Path, own: Path, pictures: dict[str, Tensor]
) -> None:
    quality = judge_made(Judge(), own, Made(pictures), reference, PROMPTS)
    assert (quality["n"], quality["n_prompts"]) == (6, 2)
    assert quality["evidence"].startswith("6 of 6 pictures, 2 of 2 prompts")
    old = [{key: value for key, value in picture.items() if key != "prompt"} for picture in quality["pictures"]]
    assert Judge().sum_up(old)["n_prompts"] == 2  # as far as the requests' names say
    assert Judge().sum_up([*old, quality["pictures"][0]])["n_prompts"] == 2


def test_latents_are_compared_with_the_references(
    reference: Path, own: Path, pictures: dict[str, Tensor], latents: dict[str, Tensor]
) -> None:
    latents["dog"][1] *= 1.25
    quality = judge_made(Judge(), own, Made(pictures, latents=latents), reference, PROMPTS)
    assert quality["verdict"] == "bit-exact"  # they decide nothing
    by_file = {picture["file"]: picture["metrics"] for picture in quality["pictures"]}
    assert by_file["dog-0.png"][RELATIVE_L2] == 0
    assert by_file["dog-1.png"][RELATIVE_L2] == pytest.approx(0.25)
    assert by_file["dog-1.png"][COSINE] == pytest.approx(1)
    assert quality["worst_metrics"][RELATIVE_L2] == pytest.approx(0.25)


def test_latents_that_are_not_finite_break_the_picture(
    reference: Path, own: Path, pictures: dict[str, Tensor], latents: dict[str, Tensor]
) -> None:
    latents["cat"][1, 0, 0, 0] = math.nan
    quality = judge_made(Judge(), own, Made(pictures, latents=latents), reference, PROMPTS)
    assert quality["verdict"] == "broken"
    assert quality["first_broken"] == "cat-1.png: latents: 1 of 64 values are NaN and 0 infinite"
    assert RELATIVE_L2 not in next(p for p in quality["pictures"] if p["file"] == "cat-1.png")["metrics"]


@pytest.mark.parametrize("kept", [None, {}, {"cat": torch.zeros(1, 4, 4, 4)}, {"cat": torch.zeros(2, 4, 8, 8)}])
def test_latents_that_do_not_belong_to_the_pictures_say_nothing(
    reference: Path, own: Path, pictures: dict[str, Tensor], kept: dict[str, Tensor] | None
) -> None:
    quality = judge_made(Judge(), own, Made(pictures, latents=kept or {}), reference, PROMPTS)
    assert quality["verdict"] == "bit-exact"
    assert RELATIVE_L2 not in quality["worst_metrics"]


@pytest.mark.parametrize("where", ["loading", "scoring"])
def test_a_metric_that_the_gpu_has_no_room_for_runs_on_the_cpu(
    where: str, reference: Path, own: Path, pictures: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(path: Path, device: str) -> Callable[..., Tensor]:
        loaded.append(device)
        full = device == "cuda"
        if full and where == "loading":
            raise torch.OutOfMemoryError("CUDA out of memory.")

        def score(before: Tensor | None, after: Tensor, prompts: list[str]) -> Tensor:
            if full:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return torch.tensor([0.02])

        return score

    (lpips,) = (metric for metric in learned.LEARNED if metric.name == "lpips")
    found: LearnedMetric = replace(lpips, load=load)
    monkeypatch.setattr(learned, "learned_metric", lambda name: found)
    quality = judge_made(Judge({"lpips": "weights"}, device="cuda"), own, Made(pictures), reference, PROMPTS)
    assert loaded == ["cuda", "cpu"]
    assert quality["worst_metrics"]["lpips"] == pytest.approx(0.02)
