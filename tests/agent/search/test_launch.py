"""A search from its first trial to its last, with real trial processes, and continued."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from paretune.agent.search import Sampler, launch
from paretune.objectives.fingerprint import Fingerprint
from paretune.search_space import Configuration, apply_source
from paretune.studies import Outcome, Records, RunKind, read_study
from PIL import Image
from support.launched import Launched
from support.launching import tiny_study, write_study

DEEPCACHE = {"deepcache": {"interval": 2, "branch": 1}}
PRESETS = (DEEPCACHE, {"repaint": {}}, {"fail": {}})


@pytest.fixture(autouse=True, scope="module")
def first(launched: Launched) -> Launched:
    return launched


def optuna_trials(launched: Launched) -> dict[int, FrozenTrial]:
    study = optuna.load_study(study_name="tiny", storage=launched.storage)
    return {trial.number: trial for trial in study.get_trials()}


def test_reference_comes_first_and_then_the_presets_in_their_order(launched: Launched) -> None:
    measured = [trial.configuration for trial in launched.results().trials]
    assert measured[:4] == [Configuration(), *(Configuration.of(preset) for preset in PRESETS)]


def test_outcomes_are_what_happened(launched: Launched) -> None:
    results = launched.results()
    outcomes = [trial.outcome for trial in results.trials[:4]]
    assert outcomes == [Outcome.COMPLETE, Outcome.COMPLETE, Outcome.COMPLETE, Outcome.APPLY_ERROR]
    assert [trial.acceptable for trial in results.trials[:4]] == [True, True, False, False]
    assert results.reference.figure("drift") == 0


def test_every_complete_trial_has_every_figure_with_its_spread(launched: Launched) -> None:
    for trial in launched.results().complete:
        assert trial.figure("latency_ms") > 0
        assert trial.figure("peak_vram_gib") > 0
        assert trial.figure("cold_start_s") * 1000 > trial.measurements["first_call_ms"]
        cat, dog = trial.measurements["latency"]
        assert (cat["requests"], dog["requests"]) == (["cat"], ["dog"])
        assert cat["n"] >= 5
        assert dog["min_ms"] <= dog["median_ms"] <= dog["max_ms"]
        assert list(trial.timing.phases_s) == [
            *("start", "load", "apply", "first_call", "warm_up", "memory", "measure", "pictures", "stages", "judge")
        ]
        assert cat["stop"] in ("interval", "calls", "time")
        assert {stage["requests"][0] for stage in trial.measurements["stages"]} == {"cat", "dog"}
        assert trial.measurements["setup_peak_vram_gib"] > 0
        assert trial.measurements["quality"]["n"] == 3


def test_a_failure_is_kept_with_its_reason_in_one_sentence_and_its_traceback(launched: Launched) -> None:
    failed = launched.trial({"fail": {}})
    assert failed.reason == "apply: ValueError: this U-Net is [/of] the wrong [red]shape"
    assert "apply.py" in failed.timing.log_tail
    assert failed.measurements == {}


def test_trial_folder_has_the_very_file_that_ran_and_the_pictures_it_made(launched: Launched) -> None:
    results = launched.results()
    versions = {name: version for name, version in results.fingerprint.packages.items() if version is not None}
    for trial in results.trials:
        assert (trial.folder / "apply.py").read_text() == apply_source(trial.configuration, versions)
        written = (trial.folder / "configuration.yaml").read_text()
        assert Configuration.from_yaml(written) == trial.configuration
        assert not (trial.folder / "compiled").exists()
    pictures = {file.name: Image.open(file).size for file in results.reference.pictures()}
    assert pictures == {"cat-0.png": (64, 64), "dog-0.png": (64, 64), "dog-1.png": (64, 64)}


def test_each_trial_ran_in_a_process_of_its_own(launched: Launched) -> None:
    pids = []
    for trial in launched.results().trials:
        entries = [json.loads(line) for line in (trial.folder / "phases.jsonl").read_text().splitlines()]
        pids.append({entry["pid"] for entry in entries})
    assert all(len(pid) == 1 for pid in pids)
    assert len(set.union(*pids)) == len(pids)


def test_records_say_what_was_measured_where(launched: Launched) -> None:
    record = Records(launched.storage).study("tiny")
    rows = [one.run for one in Records(launched.storage).runs("tiny")]
    # The second half of a key is how pictures were judged then; they may have been judged again since.
    assert {row.workload_key.partition("-")[0] for row in rows} == {record.workload_key.partition("-")[0]}
    assert {row.fingerprint_key for row in rows} == {Fingerprint.from_dict(record.fingerprint).key}
    assert [row.configuration_key for row in rows] == [Configuration.from_dict(r.configuration).key for r in rows]
    assert {row.kind for row in rows} >= {RunKind.TRIAL, RunKind.FLOOR}
    assert list(record.space) == ["channels_last", "deepcache", "vae_slicing", "fail", "repaint"]
    assert record.pipelines["main"]["largest_batch"] == 2


def test_optuna_knows_what_is_not_acceptable(launched: Launched) -> None:
    results = launched.results()
    told = optuna_trials(launched)
    for trial in results.trials:
        frozen = told[trial.number]
        assert frozen.state is (TrialState.COMPLETE if trial.complete else TrialState.PRUNED)
        assert frozen.user_attrs["configuration"] == str(trial.configuration)
        assert frozen.user_attrs["outcome"] == trial.outcome
        assert all(value <= 0 for value in frozen.constraints.values()) is trial.acceptable
        if trial.complete:
            assert frozen.values == [trial.figure(name) for name in ("latency_ms", "peak_vram_gib", "drift")]
    assert told[results.trials[3].number].constraints == {"runs": 1.0}


def test_optunas_best_trials_are_our_front(launched: Launched) -> None:
    results = launched.results()
    best = optuna.load_study(study_name="tiny", storage=launched.storage).best_trials
    assert {trial.number for trial in best} == {trial.number for trial in results.front}
    assert results.best() in results.front


def test_progress_tells_each_trial_and_its_result(launched: Launched) -> None:
    kinds = [event.kind for event in launched.events]
    assert kinds[:2] == ["server", "trial"]
    assert launched.events[1].text == "reference"
    results = [event for event in launched.events if event.kind == "result"]
    assert [(event.done, event.total) for event in results][:4] == [(2, 5), (3, 5), (4, 5), (5, 5)]
    assert results[2].text.startswith("fail: apply_error (")
    assert results[0].front >= 1


class TestContinued:
    """The same study, killed twice and continued; runs after the tests above, which count its first five trials."""

    @pytest.mark.slow
    def test_killed_between_measuring_and_telling_or_between_asking_and_measuring(
        self, launched: Launched, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        before = [(trial.number, trial.measurements) for trial in launched.results().trials]
        with monkeypatch.context() as patch:
            patch.setattr(Sampler, "tell", killed)
            with pytest.raises(KeyboardInterrupt):
                launched.launch(8)
        untold = launched.results().trials[-1]
        assert optuna_trials(launched)[untold.number].state is TrialState.RUNNING
        study = optuna.load_study(study_name="tiny", storage=launched.storage)
        wanted = {"channels_last": {}, "vae_slicing": {}, "repaint": {}}  # not "fail", whose failure is remembered
        study.enqueue_trial({**dict.fromkeys(wanted, "on"), "deepcache": "off"})
        asked = study.ask()  # and killed before anything was read of it
        compiled = Path(launched.results().record.files) / f"trial-{asked.number:04d}" / "compiled"
        compiled.mkdir(parents=True)
        launched.events.clear()

        results = launched.launch(8)

        told = optuna_trials(launched)
        assert told[untold.number].state in (TrialState.COMPLETE, TrialState.PRUNED)
        assert told[untold.number].user_attrs["outcome"] == untold.outcome
        assert not [trial for trial in told.values() if trial.state is TrialState.RUNNING]
        assert not compiled.exists()
        assert [(trial.number, trial.measurements) for trial in results.trials[:5]] == before
        assert [event.done for event in launched.events if event.kind == "result"] == [7, 8], "only the difference"
        assert len({trial.configuration.key for trial in results.trials}) == len(results.trials) == 8
        assert results.of(Configuration.of(wanted)) is not None, "what was queued and never measured is measured now"

    def test_what_was_compiled_is_kept_where_it_is_asked_for(self, launched: Launched) -> None:
        on_front = launched.launch(8).front[0].folder / "compiled"
        on_front.mkdir()
        results = launch(read_study(str(launched.file)), storage=launched.storage, trials=8, keep_compiled=True)
        assert [trial.folder for trial in results.trials if (trial.folder / "compiled").exists()] == [on_front.parent]


@pytest.mark.slow
def test_torch_compile_is_tried_even_where_the_space_leaves_it_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compiling takes a minute here; switched off, it changes nothing, and the effect check has to see that.
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    content = tiny_study(tiny_model, torch_compile_baseline=True, space={"techniques": {"channels_last": {}}})
    study = read_study(str(write_study(tmp_path / "tiny.yaml", content)))
    results = launch(study, storage=f"sqlite:///{tmp_path}/paretune.db", trials=9)
    assert results.torch_compile is not None
    assert results.torch_compile.outcome is Outcome.APPLY_ERROR
    assert results.torch_compile.reason.startswith("torch_compile changed nothing: ")
    # A space of two configurations is known to be exhausted once both are measured.
    assert [trial.number for trial in results.trials] == [0, 1, 2]
    assert {str(t.configuration) for t in results.trials if t is not results.torch_compile} == {
        "reference",
        "channels_last",
    }
    optuna_study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path}/paretune.db")
    assert len(optuna_study.trials) < 60, "asking on and on for what is known"
