"""What makes figures trustworthy: ties, canaries, confirmation, reuse, comparison, judging again, ratings."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.measuring.compare import compare, contender
from paretune.agent.measuring.finalists import confirmations, finalists
from paretune.agent.measuring.runner import Runner, picture_names
from paretune.agent.results.confirmation import BLOCK
from paretune.agent.results.results import Results, pareto_front
from paretune.agent.search.launch import Event, launch
from paretune.objectives.noise_floor import NoiseFloor
from paretune.studies import Records, RunRecord, UserError, read_study
from support.launched import Cli, Launched
from support.launching import tiny_study, write_study
from support.replayed import CACHED, SLICED, TIED, replay

CHANNELS = {"channels_last": {}}
CACHING = {"deepcache": {"interval": 2, "branch": 1}}
SPACE = {"techniques": {"channels_last": {}, "deepcache": {}}, "presets": [[CHANNELS], [CACHING]]}


@dataclass(frozen=True)
class Point:
    figures: dict[str, float]

    def figure(self, name: str) -> float:
        return self.figures[name]


def points(count: int, generator: random.Random) -> list[Any]:
    names = ("latency_ms", "peak_vram_gib", "drift")
    return [Point({name: generator.choice((1.0, 1.02, 1.04, 1.1, 1.3)) for name in names}) for _ in range(count)]


def test_a_front_with_ties_is_never_empty_and_holds_nothing_that_is_clearly_beaten() -> None:
    generator = random.Random(1)
    names = ["latency_ms", "peak_vram_gib", "drift"]
    floor = NoiseFloor(5, {"latency_ms": 0.03, "peak_vram_gib": 0.03}, {})
    for _ in range(300):
        trials = points(generator.randint(1, 7), generator)
        front = pareto_front(
            trials, names, lambda name, a, b: a.figure(name) * (1 + floor.of_figure(name)) < b.figure(name)
        )
        assert front
        for trial in front:
            clearly = [t for t in trials if all(t.figure(name) * 1.031 < trial.figure(name) for name in names)]
            assert not clearly


def test_what_ties_with_the_fastest_and_changes_less_is_the_best(tmp_path: Path) -> None:
    results = replay(tmp_path)
    fast, tied = results.of(CACHED), results.of(TIED)
    assert fast is not None
    assert tied is not None
    assert results.tie("latency_ms", fast, tied)
    assert results.best() is fast  # two techniques instead of three
    assert tied in results.ties_of(fast)


def test_confirming_blocks_tell_apart_what_the_noise_floor_cannot(tmp_path: Path) -> None:
    results = replay(tmp_path)
    fast, tied = results.of(CACHED), results.of(TIED)
    assert fast is not None
    assert tied is not None
    for block in range(6):
        results._runs += [
            _run(results, 99, block, fast.number, 400.0 + block % 2),
            _run(results, 99, block, tied.number, 392.0 + block % 2),
        ]
    assert not results.tie("latency_ms", fast, tied)
    assert results.best() is tied


def test_what_is_faster_for_certain_is_preferred_to_what_only_ties_with_it(tmp_path: Path) -> None:
    """The plain torch.compile ties with the reference in noisy blocks; the other one ties with it and is faster."""
    results = replay(tmp_path)
    fast, compiled = results.of(CACHED), results.torch_compile
    assert fast is not None
    assert compiled is not None
    results.trials = [trial for trial in results.trials if trial in (results.reference, compiled, fast)]
    for block, (reference_ms, compiled_ms, fast_ms) in enumerate([(880, 890, 670), (870, 630, 630), (910, 600, 640)]):
        for trial, latency_ms in ((results.reference, reference_ms), (compiled, compiled_ms), (fast, fast_ms)):
            results._runs.append(_run(results, 99, block, trial.number, latency_ms))
    assert results.tie("latency_ms", results.reference, compiled)
    assert results.tie("latency_ms", fast, compiled)
    assert results.best() is fast


def test_of_ties_what_was_confirmed_is_preferred_to_what_was_measured_once(tmp_path: Path) -> None:
    """Trial 4 has one technique less and ties with the best; nobody confirmed it."""
    results = replay(tmp_path)
    fast, once = results.of(CACHED), results.of(SLICED)
    assert fast is not None
    assert once is not None
    once.measurements["latency_ms"] = 398.0
    assert once in results.ties_of(fast)
    assert results.best() is fast


def _run(results: Results, session: int, block: int, trial: int, latency_ms: float) -> RunRecord:
    return RunRecord(
        study=results.name,
        kind=BLOCK,
        session=session,
        position=block,
        trial=trial,
        outcome="complete",
        measurements={"latency_ms": latency_ms},
    )


def study_in(folder: Path, model: Path, name: str, **keys: Any) -> Any:
    content = tiny_study(model, name=name, **{"space": SPACE, "budget": {"trials": 3}, **keys})
    return read_study(str(write_study(folder / f"{name}.yaml", content)))


def test_picture_names_cover_every_shape_and_go_on_with_other_seeds(tiny_model: Path, tmp_path: Path) -> None:
    study = study_in(tmp_path, tiny_model, "names")
    assert picture_names(study, 1) == ("cat", "dog")  # of every shape, although one picture was asked for
    assert picture_names(study, 3) == ("cat", "dog")  # dog makes two
    assert picture_names(study, 7) == ("cat", "dog", "cat~1", "dog~1", "cat~2")


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
        usual, calls = Runner.beside, 0

        def beside(self: Runner, kind: str, *args: Any, **kwargs: Any) -> RunRecord:
            nonlocal calls
            calls += kind == BLOCK
            if calls == 4:
                raise KeyboardInterrupt
            return usual(self, kind, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Runner, "beside", beside)
            with pytest.raises(KeyboardInterrupt):
                launch(study, storage=storage)
        return launch(study, storage=storage)

    def test_a_killed_confirmation_goes_on_where_it_stopped(self, first: Results) -> None:
        (finalist,) = finalists(first, 1)
        runs = first.runs(BLOCK)
        assert [run.session for run in runs] == [1] * 6
        order = [(run.position, run.trial) for run in runs]
        assert order == [(0, 0), (0, finalist.number), (1, finalist.number), (1, 0), (2, 0), (2, finalist.number)]
        comparison = confirmations(first)[finalist.number].against["reference"]
        assert comparison.blocks == 3

    def test_a_finalist_has_all_its_pictures_and_a_cold_start_in_a_fresh_process(self, first: Results) -> None:
        (finalist,) = finalists(first, 1)
        quality = finalist.measurements["quality"]
        assert quality["n"] == 6
        assert {picture["request"] for picture in quality["pictures"]} == {"cat", "dog", "cat~1", "dog~1"}
        assert len(finalist.pictures()) == len(first.reference.pictures()) == 6
        assert "6 of 6" in quality["evidence"]
        cold = finalist.measurements["cold_start"]
        assert cold["n"] == 1
        parts = ("interpreter_s", "import_s", "apply_s", "first_image_s")
        assert finalist.figure("cold_start_measured_s") == pytest.approx(sum(cold[part] for part in parts), abs=0.01)

    def test_the_benign_floor_is_measured_and_every_variant_runs(self, first: Results) -> None:
        floor = first.record.benign_floor
        assert floor is not None
        assert [variant["n"] for variant in floor["variants"].values()] == [3, 3, 3]
        assert floor["drift"] < 1

    def test_the_second_study_measures_nothing_twice(self, first: Results, folder: Path, tiny_model: Path) -> None:
        quality = {"pictures": {"screen": 3, "front": 4, "finalists": 6}}
        study = study_in(folder, tiny_model, "second", quality=quality, limits={"verdict": "visible"})
        events: list[Event] = []
        results = launch(study, storage=f"sqlite:///{folder}/paretune.db", on_event=events.append)
        assert [trial.reused_from is not None for trial in results.trials] == [True] * 3
        assert {trial.reused_from["study"] for trial in results.trials if trial.reused_from} == {"first"}
        assert results.floor == first.floor
        assert results.trial(1).figure("latency_ms") == first.trial(1).figure("latency_ms")
        assert results.trial(1).pictures()
        assert any("of study first, " in event.text and "old" in event.text for event in events)
        assert not results.runs("floor")

    def test_fresh_measures_all_of_it_again(self, first: Results, folder: Path, tiny_model: Path) -> None:
        quality = {"pictures": {"screen": 3, "front": 4, "finalists": 6}, "benign_floor": False}
        study = study_in(folder, tiny_model, "third", quality=quality, budget={"trials": 1})
        results = launch(study, storage=f"sqlite:///{folder}/paretune.db", fresh=True)
        assert results.reference.reused_from is None
        assert len(results.runs("floor")) >= 1

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
    assert "redder" in after.measurements["quality"]["pictures"][0]["metrics"]
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
