"""A pair of techniques that failed here is not tried again, by any study of the database, unless asked for afresh."""

from pathlib import Path

import pytest
from paretune.agent.doctor import availability, availability_text
from paretune.agent.results import failed_before
from paretune.agent.trial import Job, TrialResult
from paretune.objectives.fingerprint import Fingerprint
from paretune.search_space import Configuration
from paretune.studies import Outcome, Records
from support.replaying import World, world_in

PAIR = {"fused_qkv": {}, "channels_last": {}}
WITH_CACHE = {**PAIR, "deepcache": {"interval": 3, "branch": 0, "full_percent": 0}}


def space(*presets: dict[str, dict[str, int]]) -> dict[str, object]:
    named = {name: values for preset in presets for name, values in preset.items()}
    return {"techniques": named, "presets": [[{n: v} for n, v in preset.items()] for preset in presets]}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """In which the two of PAIR do not go together."""

    def before(job: Job, kind: str) -> TrialResult | None:
        used = {step.technique for step in Configuration.from_dict(job.configuration).steps}
        return TrialResult(outcome=Outcome.CRASH, reason="measure: it crashed") if set(PAIR) <= used else None

    found = world_in(tmp_path, monkeypatch)
    found.before = before
    found.launch(found.study("a", [], space=space(PAIR), budget={"trials": 2}))
    assert [configuration for _, configuration in found.ran][-1] == "fused_qkv + channels_last"
    found.ran.clear()
    found.notes.clear()
    return found


def test_another_study_does_not_try_it_again_and_says_why(world: World) -> None:
    world.launch(world.study("b", [], space=space(WITH_CACHE, PAIR), budget={"trials": 4}))
    assert not [configuration for _, configuration in world.ran if "fused_qkv + channels_last" in configuration]
    told = [note for note in world.notes if "is not tried" in note]
    assert len(told) == 2
    assert "fused_qkv + channels_last failed here before, in trial 1 of study a (crash): measure: it crashed" in told[0]


def test_a_small_space_is_exhausted_without_it(world: World) -> None:
    results = world.launch(world.study("b", [], space=space(PAIR), budget={"trials": 10}))
    assert {str(trial.configuration) for trial in results.trials} == {"reference", "fused_qkv", "channels_last"}
    assert "every configuration that can work has been measured" in world.notes


def test_asked_for_afresh_it_is_tried_and_forgotten_when_it_works(world: World) -> None:
    world.before = lambda job, kind: None
    results = world.launch(world.study("b", [], space=space(PAIR), budget={"trials": 2}), fresh=True)
    assert results.trial(1).complete
    assert failed_before(Records(world.storage), results.fingerprint, None).all == []


def test_the_list_of_techniques_says_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fingerprint, "current", classmethod(lambda cls, device: world.fingerprint))
    found = {one.words: one for one in availability(world.storage)}
    said = found["fused_qkv"].to_dict()["failed_before"]
    assert said == found["channels_last"].to_dict()["failed_before"]
    assert said[0].startswith("fused_qkv + channels_last failed here before")
    assert found["vae_slicing"].failed_before == ()
    assert said[0] in availability_text(list(found.values()))
    elsewhere = availability(f"sqlite:///{world.folder / 'no.db'}")
    assert not any(one.failed_before for one in elsewhere)
    assert not (world.folder / "no.db").exists()
