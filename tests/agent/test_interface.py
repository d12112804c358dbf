"""The Python interface: everything a notebook needs is in dir(), shows itself, and says what reports say."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy
import paretune
import pytest
from paretune.agent import interface
from paretune.agent.notebook_progress import NotebookProgress
from paretune.agent.search import Event
from paretune.search_space import apply_source
from paretune.testing import picture, tiny_sdxl
from support.replayed import NAME, replay, url_of


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> paretune.StudyResults:
    folder = tmp_path_factory.mktemp("replayed")
    replay(folder)
    return paretune.open(NAME, storage=url_of(folder))


def test_everything_public_is_in_dir_and_can_be_had() -> None:
    assert set(paretune.__all__) <= set(dir(paretune))
    assert all(getattr(paretune, name) is not None for name in paretune.__all__)
    assert {"open", "study", "workload", "load_bundle", "launch", "read_study"} <= set(paretune.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        paretune.lunch  # noqa: B018


def test_results_say_what_the_report_says(results: paretune.StudyResults) -> None:
    view = paretune.study_view(results)
    assert results.headline == view.headline
    assert [trial.number for trial in results.front()] == view.front
    assert results.best().number == view.best
    assert results.best(by="peak_vram_gib", verdict="visible").acceptable
    records = {record["trial"]: record for record in results.to_records()}
    assert set(records) == {row.number for row in view.rows}
    for row in view.complete:
        assert records[row.number]["latency_ms"] == row.figures["latency_ms"].value
    with pytest.raises(paretune.UserError, match=r"best\(\): 'great' is not a valid Verdict"):
        results.best(verdict="great")


def test_a_dataframe_has_a_row_per_trial(results: paretune.StudyResults) -> None:
    pytest.importorskip("pandas")
    frame = results.to_dataframe()
    assert list(frame.index) == [trial.number for trial in results.trials]
    assert frame.loc[0, "configuration"] == "reference"


def test_without_pandas_it_says_what_to_install(
    results: paretune.StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(paretune.UserError, match="needs pandas: pip install pandas"):
        results.to_dataframe()


def test_everything_shows_itself_in_a_notebook(results: paretune.StudyResults) -> None:
    best = results.best()
    shown = [results, best, results.pictures(), results.compare(0, best), results.explain(), results.study]
    shown.append(results.against_torch_compile(lines={"torch.compile": 1, "paretune": 6}))
    texts = [one._repr_html_() for one in shown]
    assert "lines changed: unchanged 0, torch.compile 1, paretune 6" in str(shown[-1])
    assert str(best.configuration) in texts[0]
    assert texts[2].count("data:image/png;base64,") == 2 * len(results.pictures())
    assert "<script>" not in "".join(texts), "names and prompts are escaped"
    assert len(results.plot_front().data) == 3
    assert next(iter(results.pictures())).size[0] > 0
    assert "latency" in str(results.compare(0, best))
    assert str(results.explain(best)).startswith(str(best.configuration))


def test_a_study_is_changed_by_keys_and_by_sections(results: paretune.StudyResults) -> None:
    study = paretune.read_study("quickstart")
    changed = study.with_({"budget.trials": 3, "workload.requests.0.steps": 7}, name="mine", limits={})
    assert (changed.name, changed.budget.trials, changed.workload.requests[0].steps) == ("mine", 3, 7)
    assert changed.limits == study.limits
    assert study.with_(limits={"peak_vram_gib": 3.0}).limits.verdict == "near-lossless"
    with pytest.raises(paretune.UserError, match=r"quickstart.with_\(\): budget.trials: .* not 'many'"):
        study.with_({"budget.trials": "many"})


def test_a_study_is_built_in_python(tiny_model: Path) -> None:
    pipelines = {"main": {"class": "StableDiffusionXLPipeline", "model": str(tiny_model), "dtype": "float32"}}
    request = {"prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 2}
    built = paretune.study("built", {"pipelines": pipelines, "requests": [request]}, budget={"trials": 2})
    assert (built.name, built.budget.trials) == ("built", 2)
    with pytest.raises(paretune.UserError, match="unknown key 'bugdet'; did you mean 'budget'"):
        paretune.study("built", {"pipelines": pipelines, "requests": [request]}, bugdet={"trials": 2})


def test_an_exported_bundle_is_loaded_and_applied(results: paretune.StudyResults, tmp_path: Path) -> None:
    folder = results.export(tmp_path / "bundle", results.best(), unconfirmed=True)
    bundle = paretune.load_bundle(folder)
    assert bundle.configuration == results.best().configuration
    assert "latency" in bundle._repr_html_()
    assert str(bundle.explain()).startswith(str(bundle.configuration))
    # The replayed study's apply.py is only a text.
    bundle = dataclasses.replace(bundle, source=apply_source(bundle.configuration))
    pipeline: Any = bundle.apply(tiny_sdxl())
    assert pipeline.unet.applied_configuration == bundle.configuration.key
    assert picture(pipeline, steps=4, batch=1).shape == (1, 3, 64, 64)
    (folder / "apply.py").write_text("print('other')")
    with pytest.raises(paretune.UserError):
        paretune.load_bundle(folder)


def test_the_progress_of_a_launch_is_shown_and_escaped() -> None:
    assert not interface.in_notebook()
    progress = NotebookProgress()
    progress.show(Event("trial", "channels_last", 1, 8))
    progress.show(Event("result", "channels_last: 600 ms <b>", 2, 8, front=2))
    text = progress.html()
    assert '<progress value="2" max="8">' in text
    assert "2/8 channels_last: 600 ms &lt;b&gt;" in text
    assert "front 2" in text


def test_wrong_arguments_are_one_sentence_and_nothing_is_launched(tmp_path: Path) -> None:
    study, storage = paretune.read_study("quickstart"), f"sqlite:///{tmp_path}/paretune.db"
    wrong: list[tuple[Any, str]] = [
        (lambda: paretune.launch("quickstart", storage=storage), "launch() takes a study"),  # type: ignore[arg-type]
        (lambda: paretune.launch(study, storage=storage, trials=0), "trials is 0, but the reference alone is one"),
        (lambda: paretune.launch(study, storage=storage, max_minutes=-1), "max_minutes is -1"),
        (lambda: paretune.study("mine", None), "study() takes a workload"),  # type: ignore[arg-type]
        (lambda: study.with_({"budget.trials": object()}), "budget.trials: input should be a valid integer"),
        (lambda: study.with_(["budget.trials=3"]), "a mapping from keys"),  # type: ignore[arg-type]
        (lambda: study.with_({"workload.requests.9.steps": 3}), "workload.requests.9.steps: '9' is not one of"),
        (lambda: paretune.verify(str(tmp_path / "none")), "none"),
    ]
    for call, said in wrong:
        with pytest.raises(paretune.UserError, match=re.escape(said)):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("key", "value"), [("measurement.most_seconds", 1e-5), ("price_per_gpu_hour", 1e-7)])
def test_a_small_number_is_set_as_it_is(key: str, value: float) -> None:
    section, _, name = key.rpartition(".")
    changed = paretune.read_study("quickstart").with_({key: value})
    assert getattr(getattr(changed, section) if section else changed, name) == value


def test_a_text_is_set_as_it_is() -> None:
    changed = paretune.read_study("quickstart").with_({"workload.requests.0.prompt": "a cat \U0001f600: {yes}"})
    assert changed.workload.requests[0].prompt == "a cat \U0001f600: {yes}"


def test_a_trial_is_named_by_its_number_of_any_kind_or_refused(results: paretune.StudyResults) -> None:
    best = results.best().number
    assert str(results.explain(numpy.int64(best))) == str(results.explain(best))  # type: ignore[arg-type]
    for call in (results.explain, results.pictures, lambda trial: results.compare(0, trial)):
        with pytest.raises(paretune.UserError, match="'best' is no trial: give one of results"):
            call("best")
