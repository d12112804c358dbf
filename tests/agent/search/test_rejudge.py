"""Judging again: all pictures or none, never beside a launch, and a launch goes on after it. Processes are replayed."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.results import Results
from paretune.agent.search import only_launcher
from paretune.objectives import drift
from paretune.objectives.judging import Judge
from paretune.studies import Records, Study, UserError, parse_study
from PIL import Image
from support.launched import Cli
from support.replaying import World, drawing, world_in

OWN_METRIC = """
from paretune.objectives.drift import Metric


def redder(reference_BCHW, candidate_BCHW):
    return {factor} * (candidate_BCHW[:, 0] - reference_BCHW[:, 0]).abs().mean(dim=(1, 2))


METRICS = (
    Metric(name="redder", unit="1", higher_is_better=False, best=0.0, summary="Red.", source="own", compute=redder),
)
"""


class Launched:
    """A study of three trials in a replayed world, with pictures large enough to be judged."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.study = world.study("tiny", ["channels_last", "fused_qkv"])
        world.launch(self.study)
        for trial, folder in enumerate(sorted((world.folder / "paretune.files" / "tiny").glob("trial-*"))):
            for file in (folder / "pictures").glob("*.png"):
                drawing((trial, 0, 0)).save(file)
        self.metric = world.folder / "own.py"
        self.metric.write_text(OWN_METRIC.format(factor=1))
        self.setting = f"quality.files=[{self.metric}]"

    @property
    def records(self) -> Records:
        return Records(self.world.storage)

    def rows(self) -> list[dict[str, Any]]:
        """Everything that judging may change."""
        record = self.records.study("tiny")
        runs = [
            {"id": one.run.id, "kind": one.run.kind, "m": one.run.measurements} for one in self.records.runs("tiny")
        ]
        return [*runs, {"study": record.study, "key": record.workload_key}]

    def with_own_metric(self) -> Study:
        data = self.study.model_dump(by_alias=True, mode="json")
        data["quality"]["files"] = [str(self.metric)]
        return parse_study(data, "study.yaml", self.world.folder)

    def metrics(self, trial: int) -> dict[str, float]:
        return dict(Results(self.records, "tiny").trial(trial).measurements["quality"]["pictures"][0]["metrics"])


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launched:
    monkeypatch.setattr(drift, "_own", {})  # every command is a process of its own in truth
    return Launched(world_in(tmp_path, monkeypatch))


def test_a_launch_goes_on_as_the_pictures_were_judged(launched: Launched, cli: Cli) -> None:
    said = cli("judge", "tiny", "--set", launched.setting, "--storage", launched.world.storage)
    assert said.code == 0, said.err
    assert "9 pictures of tiny were judged again" in said.out
    needed = shlex.split(said.out.splitlines()[-1].partition("launch it with ")[2])
    assert needed == ["--set", f'quality.files=["{launched.metric}"]']
    assert launched.metrics(1)["redder"] == pytest.approx(1 / 255)
    results = launched.world.launch(launched.with_own_metric(), trials=3)
    assert len(results.trials) == 3


def test_a_launch_that_judges_otherwise_is_told_both_ways_on(launched: Launched, cli: Cli) -> None:
    storage = ("--storage", launched.world.storage)
    cli("judge", "tiny", "--set", launched.setting, *storage)
    with pytest.raises(UserError) as refusal:
        launched.world.launch(launched.study, trials=3)
    said = str(refusal.value)
    assert f"""launch it with --set 'quality.files=["{launched.metric}"]'""" in said
    assert "paretune judge tiny --set 'quality.files=[]'" in said
    # As it says: judge as the launch would, and the launch goes on.
    assert cli("judge", "tiny", "--set", "quality.files=[]", *storage).code == 0
    assert len(launched.world.launch(launched.study, trials=3).trials) == 3
    # Asked for the new way first, it says so too.
    with pytest.raises(UserError, match=r"paretune judge tiny --set 'quality\.files="):
        launched.world.launch(launched.with_own_metric(), trials=3)


def test_a_metric_that_was_changed_is_judged_with_again_and_the_launch_goes_on(launched: Launched, cli: Cli) -> None:
    storage = ("--storage", launched.world.storage)
    cli("judge", "tiny", "--set", launched.setting, *storage)
    launched.metric.write_text(OWN_METRIC.format(factor=3))
    with pytest.raises(UserError, match="paretune judge tiny judges its pictures again"):
        launched.world.launch(launched.with_own_metric(), trials=3)
    said = cli("judge", "tiny", *storage)
    assert (said.code, "--set" in said.out) == (0, False)
    assert launched.metrics(1)["redder"] == pytest.approx(3 / 255)
    assert len(launched.world.launch(launched.with_own_metric(), trials=3).trials) == 3


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_cut_off_in_the_middle_it_has_changed_nothing(
    launched: Launched, cli: Cli, monkeypatch: pytest.MonkeyPatch, how: type[BaseException]
) -> None:
    before, usual, calls = launched.rows(), Judge.judge_file, 0

    def cut_off(self: Judge, *arguments: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise how
        return usual(self, *arguments)

    monkeypatch.setattr(Judge, "judge_file", cut_off)
    arguments = ("judge", "tiny", "--set", launched.setting, "--storage", launched.world.storage)
    said = cli(*arguments)
    if how is KeyboardInterrupt:
        assert (said.code, "Interrupted. Nothing was changed." in said.out) == (130, True)
    if how is RuntimeError:
        assert said.sentence().endswith("-0.png could not be judged (RuntimeError:): nothing was changed")
    assert launched.rows() == before
    monkeypatch.setattr(Judge, "judge_file", usual)
    assert cli(*arguments).code == 0


def test_it_waits_for_no_launch_and_no_launch_comes_between(
    launched: Launched, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = launched.rows()
    arguments = ("judge", "tiny", "--set", launched.setting, "--storage", launched.world.storage)
    with only_launcher(Records(launched.world.storage), "tiny"):
        assert cli(*arguments).sentence().startswith("study tiny is being launched by process ")
    assert launched.rows() == before
    usual = Judge.judge_file

    def launch_meanwhile(self: Judge, *pictures: Any) -> dict[str, Any]:
        with pytest.raises(UserError, match="study tiny is being judged again by process"):
            launched.world.launch(launched.study, trials=4)
        return usual(self, *pictures)

    monkeypatch.setattr(Judge, "judge_file", launch_meanwhile)
    assert cli(*arguments).code == 0


def test_what_another_study_takes_over_was_judged_in_its_way(launched: Launched, cli: Cli) -> None:
    cli("judge", "tiny", "--set", launched.setting, "--storage", launched.world.storage)
    data = launched.with_own_metric().model_dump(by_alias=True, mode="json")
    results = launched.world.launch(parse_study({**data, "name": "other"}, "x", launched.world.folder))
    assert [trial.elsewhere is not None for trial in results.trials] == [True] * 3
    assert "redder" in results.trial(1).measurements["quality"]["pictures"][0]["metrics"]


def test_pictures_of_a_reference_that_shows_nothing_are_not_judged(launched: Launched, cli: Cli) -> None:
    before = launched.rows()
    for file in (launched.world.folder / "paretune.files" / "tiny").glob("trial-0000/pictures/*.png"):
        Image.new("RGB", (64, 64)).save(file)
    said = cli("judge", "tiny", "--storage", launched.world.storage).sentence()
    assert said.startswith(
        "the reference's pictures in study tiny show nothing (cat-0.png: black: the picture is empty"
    )
    assert launched.rows() == before


def test_pictures_or_files_that_are_gone_are_one_sentence(launched: Launched, cli: Cli) -> None:
    before = launched.rows()
    files = launched.world.folder / "paretune.files" / "tiny"
    arguments = ("judge", "tiny", "--storage", launched.world.storage)
    (files / "trial-0002" / "pictures" / "cat~1-0.png").rename(files / "aside.png")
    assert cli(*arguments).sentence().endswith("cat~1-0.png is gone, so tiny cannot be judged again")
    files.rename(files.with_name("elsewhere"))
    assert cli(*arguments).sentence().startswith("the pictures of tiny are gone from ")
    assert launched.rows() == before
    assert not files.exists()
