"""Two studies of one workload in one database, with real processes: confirmation, reuse, comparing, judging, rating."""

from pathlib import Path
from typing import Any

import pytest
from paretune.agent.measuring import StudyRuns, compare, contender, finalists
from paretune.agent.results import Results
from paretune.agent.search import Event, launch
from paretune.studies import Records, RunKind, RunRecord, UserError, picture_names, read_study
from support.launched import Cli, Launched
from support.launching import tiny_study, write_study
from support.steady import SteadyRunner

CHANNELS = {"channels_last": {}}
CACHING = {"deepcache": {"interval": 2, "branch": 1}}
SPACE = {"techniques": {"channels_last": {}, "deepcache": {}}, "presets": [[CHANNELS], [CACHING]]}


def study_in(folder: Path, model: Path, name: str, **keys: Any) -> Any:
    content = tiny_study(model, name=name, **{"space": SPACE, "budget": {"trials": 3}, **keys})
    return read_study(str(write_study(folder / f"{name}.yaml", content)))


def test_picture_names_cover_every_shape_and_go_on_with_other_seeds(tiny_model: Path, tmp_path: Path) -> None:
    study = study_in(tmp_path, tiny_model, "names")
    assert picture_names(study, 1) == ("cat", "dog")  # of every shape, although one picture was asked for
    assert picture_names(study, 3) == ("cat", "dog")  # dog makes two
    assert picture_names(study, 7) == ("cat", "dog", "cat~1", "dog~1", "cat~2")


@pytest.mark.slow
class TestOneStudyAfterAnother:
    """Two studies of one workload in one database."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("studies")

    @pytest.fixture(scope="class")
    @classmethod
    def first(cls, folder: Path, tiny_model: Path) -> Results:
        finalist = {"count": 1, "blocks": 3, "calls": 1, "cold_starts": 1}
        quality = {"pictures": {"screen": 3, "front": 4, "finalists": 6}}
        study = study_in(folder, tiny_model, "first", finalists=finalist, quality=quality)
        storage = f"sqlite:///{folder}/paretune.db"
        # Killed in the middle of the second block, and launched again.
        usual, calls = StudyRuns.process, 0

        def process(self: StudyRuns, kind: RunKind, *args: Any, **kwargs: Any) -> RunRecord:
            nonlocal calls
            calls += kind is RunKind.BLOCK
            if calls == 4:
                raise KeyboardInterrupt
            return usual(self, kind, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StudyRuns, "process", process)
            with pytest.raises(KeyboardInterrupt):
                launch(study, storage=storage, runner=SteadyRunner(study))
        return launch(study, storage=storage, runner=SteadyRunner(study))

    def test_a_killed_confirmation_goes_on_where_it_stopped(self, first: Results) -> None:
        (finalist,) = finalists(first, 1)
        runs = first.runs(RunKind.BLOCK)
        assert [run.session for run in runs] == [1] * 6
        order = [(run.position, run.trial) for run in runs]
        assert order == [(0, 0), (0, finalist.number), (1, finalist.number), (1, 0), (2, 0), (2, finalist.number)]
        assert finalist.confirmation is not None
        assert finalist.confirmation.reference is not None
        assert finalist.confirmation.reference.blocks == 3

    def test_a_finalist_has_all_its_pictures_and_a_cold_start_in_a_fresh_process(self, first: Results) -> None:
        (finalist,) = finalists(first, 1)
        quality = finalist.quality
        assert quality["n"] == 6
        assert {picture["request"] for picture in quality["pictures"]} == {"cat", "dog", "cat~1", "dog~1"}
        assert len(finalist.pictures()) == len(first.reference.pictures()) == 6
        assert "6 of 6" in quality["evidence"]
        cold = finalist.cold_start_measured
        assert cold is not None
        assert cold["n"] == 1
        parts = ("interpreter_s", "import_s", "apply_s", "first_image_s")
        assert cold["cold_start_s"] == pytest.approx(sum(cold[part] for part in parts), abs=0.01)

    def test_the_reordering_floor_is_measured_and_every_variant_runs(self, first: Results) -> None:
        floor = first.reordering_floor
        assert floor is not None
        assert [variant["n"] for variant in floor["variants"].values()] == [3, 3, 3]
        assert floor["drift"] < 1

    def test_the_second_study_measures_nothing_twice(self, first: Results, folder: Path, tiny_model: Path) -> None:
        quality = {"pictures": {"screen": 3, "front": 4, "finalists": 6}}
        study = study_in(folder, tiny_model, "second", quality=quality, limits={"verdict": "visible"})
        events: list[Event] = []
        storage = f"sqlite:///{folder}/paretune.db"
        results = launch(study, storage=storage, runner=SteadyRunner(study), on_event=events.append)
        assert [trial.elsewhere is not None for trial in results.trials] == [True] * 3
        assert {trial.elsewhere.study for trial in results.trials if trial.elsewhere} == {"first"}
        assert results.floor == first.floor
        assert results.trial(1).measurements == first.trial(1).measurements
        assert results.trial(1).pictures()
        assert any("of study first, " in event.text and "old" in event.text for event in events)
        assert all(run.study == "first" for run in results.runs(RunKind.FLOOR))

    def test_fresh_measures_all_of_it_again(self, first: Results, folder: Path, tiny_model: Path) -> None:
        quality = {"pictures": {"screen": 3, "front": 4, "finalists": 6}, "reordering_floor": False}
        study = study_in(folder, tiny_model, "third", quality=quality, budget={"trials": 1})
        results = launch(study, storage=f"sqlite:///{folder}/paretune.db", fresh=True)
        assert results.reference.elsewhere is None
        assert [run.study for run in results.runs(RunKind.FLOOR)] == ["third"]

    def test_compare_says_what_a_configuration_gains_and_refuses_other_workloads(
        self, first: Results, folder: Path, launched: Launched
    ) -> None:
        storage = f"sqlite:///{folder}/paretune.db"
        reference = contender("first:reference", storage)
        found = compare(reference, contender("first:1", storage), blocks=3, calls=1)
        assert found.comparison.blocks == len(found.latencies_ms) == 3
        assert found.comparison.decision in ("faster", "tie", "slower")
        assert found.to_dict()["fingerprint"]["device_kind"] == "cpu"
        (folder / "x.yaml").write_text("")
        for text in ("nowhere", "first:99", "first:fastest", "first:torch.compile"):
            with pytest.raises(UserError):
                contender(text, storage)


def test_stored_pictures_are_judged_again_with_a_metric_of_ones_own(
    launched: Launched, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from paretune.objectives.drift import Metric\n\n\n"
        "def redder(reference_BCHW, candidate_BCHW):\n"
        "    return (candidate_BCHW[:, 0] - reference_BCHW[:, 0]).abs().mean(dim=(1, 2))\n\n\n"
        "METRICS = (\n"
        "    Metric(name='redder', unit='1', higher_is_better=False, best=0.0, summary='Red.', source='own',\n"
        "           compute=redder),\n"
        ")\n"
    )
    before = launched.results().trial(1)
    said = cli("judge", "tiny", "--set", f"quality.files=[{file}]", "--storage", launched.storage)
    assert said.code == 0, said.err
    after = launched.results().trial(1)
    assert after.verdict == before.verdict
    assert "redder" in after.quality["pictures"][0]["metrics"]
    assert cli("judge", "tiny", "--set", "limits.verdict=visible", "--storage", launched.storage).code == 2
    # Other tests look at this study too.
    assert cli("judge", "tiny", "--set", "quality.files=[]", "--storage", launched.storage).code == 0


def test_a_rating_is_kept_and_a_later_one_replaces_it(launched: Launched, cli: Cli) -> None:
    for rating in ("worse", "same"):
        assert cli("rate", "tiny", "1", "cat-0.png", rating, "--by", "Ann", "--storage", launched.storage).code == 0
    ratings = Records(launched.storage).ratings("tiny")
    assert [(r.trial, r.picture, r.rating, r.rater) for r in ratings] == [(1, "cat-0.png", "same", "Ann")]
    for wrong in (("1", "horse-0.png", "same"), ("1", "cat-0.png", "nice"), ("99", "cat-0.png", "same")):
        assert cli("rate", "tiny", *wrong, "--by", "Ann", "--storage", launched.storage).code == 2
