"""A study under a memory cap that its reference exceeds, on replayed measurements: what fits is found, and said."""

from pathlib import Path

import pytest
from paretune.agent.results import Results
from paretune.agent.review import study_view
from paretune.objectives.fingerprint import Fingerprint
from paretune.search_space import Loss
from paretune.testing import TINY_FACTS
from support import replaying
from support.machines import fingerprint
from support.replaying import World, world_in

SLICED = "vae_slicing + text_encoder_offload"
STREAMED = "vae_slicing + group_offload(level=block_level, use_stream=True) + text_encoder_offload"
TECHNIQUES = {
    name: {}
    for name in ("vae_slicing", "text_encoder_offload", "group_offload", "channels_last", "deepcache", "fused_qkv")
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(replaying, "PIPELINES", {"main": TINY_FACTS.to_dict()})
    world = world_in(tmp_path, monkeypatch)
    world.fingerprint, world.device = Fingerprint.from_dict(fingerprint("cuda")), "cuda"
    world.usual_memory_gib, world.memory_gib = 30.0, {SLICED: 22.0, STREAMED: 14.0}
    world.latency_ms = {SLICED: 1040.0, STREAMED: 1400.0}
    return world


def launch(world: World, cap_gib: float, **keys: object) -> Results:
    space = {"techniques": TECHNIQUES, "recipes": True}
    study = world.study(
        f"under-{cap_gib:.0f}",
        [],
        device="cuda",
        space=space,
        lossless=True,
        limits={"peak_vram_gib": cap_gib},
        budget={"trials": 6},
        **keys,
    )
    return world.launch(study)


@pytest.mark.parametrize(("cap_gib", "best", "memory"), [(24.0, SLICED, "22"), (16.0, STREAMED, "14")])
def test_lossless_settings_that_fit_are_found_first_and_the_report_says_what_was_traded(
    world: World, cap_gib: float, best: str, memory: str
) -> None:
    results = launch(world, cap_gib)
    assert [str(trial.configuration) for trial in results.trials][1:3] == [SLICED, STREAMED]
    assert str(results.best().configuration) == best
    assert all(trial.configuration.loss in (Loss.BIT_IDENTICAL, Loss.REORDERED) for trial in results.trials)
    view = study_view(results)
    assert view.gained
    said = (
        f"The unchanged pipelines break the study's limits (peak memory is over {cap_gib:.2f} GiB); trial "
        f"{results.best().number} keeps them. What was traded: memory {memory}.00 GiB against 30.00 GiB; "
    )
    assert view.headline.startswith(said), view.headline
    assert view.headline.endswith("; pictures: imperceptible (on 3 pictures).")


def test_what_confirming_blocks_say_of_its_time_is_part_of_the_trade(world: World) -> None:
    results = launch(world, 16.0, finalists={"count": 1, "blocks": 3, "calls": 1, "cold_starts": 0})
    assert "; 1.40 times as long (1.40 s against 1.00 s; 95 % interval 1.40 to 1.40 in 3 blocks" in (
        study_view(results).headline
    )
    assert not [doubt for doubt in study_view(results).doubts if "did not show a gain" in doubt.text]
