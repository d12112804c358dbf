"""Study files: those that come with paretune, what they resolve to, and what may be left out."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from paretune.search_space import Configuration
from paretune.studies import BUILT_IN, UserError, Workload, built_in_studies, parse_study, read_study
from support.launching import tiny_study, write_study

MODEL = Path("model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    return tmp_path


@pytest.fixture(params=built_in_studies())
def built_in(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_are_studies() -> None:
    assert {"quickstart", "sdxl"} <= set(built_in_studies())


def test_every_built_in_study_can_be_read_and_searched(built_in: str) -> None:
    study = read_study(built_in)
    assert study.name == built_in
    assert study.description
    assert study.search_space().size() > study.budget.trials
    for preset in study.presets():
        study.search_space().optuna_parameters(preset)
    requests = Workload(study.workload_description()).requests
    assert len({request.name for request in requests}) == len(requests)


def test_resolved_and_written_it_reads_the_same_from_anywhere(built_in: str, tmp_path: Path) -> None:
    study = read_study(built_in)
    (tmp_path / "copy.yaml").write_text(study.to_yaml())
    again = read_study(str(tmp_path / "copy.yaml"))
    assert again == study
    assert again.to_yaml() == study.to_yaml()
    assert again.workload_description() == study.workload_description()


def test_full_size_study_runs_with_random_weights_without_any_download() -> None:
    study = read_study("sdxl", ["workload.pipelines.main.weights=random"])
    assert not study.workload.quality_assessed
    assert study.optimised == ["latency_ms", "peak_vram_gib"]
    assert study.workload.pipelines is not None
    config = Path(str(study.workload.pipelines["main"].config))
    for part in yaml.safe_load((config / "model_index.json").read_text()):
        if part in {"unet", "vae", "text_encoder", "text_encoder_2"}:
            assert (config / part / "config.json").is_file()


def test_a_built_in_name_wins_over_no_file_and_a_path_is_a_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write_study(folder / "quickstart.yaml", tiny_study(MODEL, name="mine"))
    assert read_study("quickstart").name == "quickstart"
    assert read_study("quickstart.yaml").name == "mine"
    assert read_study(str(BUILT_IN / "quickstart.yaml")) == read_study("quickstart")


def test_paths_are_taken_from_the_files_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_study(folder / "tiny.yaml", tiny_study(MODEL))
    monkeypatch.chdir("/")
    study = read_study(str(file))
    assert study.workload.pipelines is not None
    assert study.workload.pipelines["main"].model == str(folder / "model")


@pytest.mark.parametrize("model", ["stabilityai/stable-diffusion-xl-base-1.0", "some-one/a.model_v2"])
def test_a_model_of_the_hub_stays_as_it_is(folder: Path, model: str) -> None:
    content = tiny_study(MODEL)
    content["workload"]["pipelines"]["main"]["model"] = model
    study = parse_study(content, "tiny.yaml", folder)
    assert study.workload.pipelines is not None
    assert study.workload.pipelines["main"].model == model


def test_settings_override_keys_items_and_whole_sections(folder: Path) -> None:
    file = write_study(folder / "tiny.yaml", tiny_study(MODEL))
    settings = ["budget.trials=9", "workload.requests.1.prompt=a red cat", "limits.verdict=visible", "name=other"]
    study = read_study(str(file), [*settings, "space={techniques: {sdpa_kernel: {vae: [default, math]}}}"])
    assert (study.budget.trials, study.limits.verdict, study.name) == (9, "visible", "other")
    assert study.workload.requests[1].prompt == "a red cat"
    assert study.workload.requests[0].prompt == "a cat"
    assert study.search_space().size() == 1 + 5 * 2


def test_what_is_left_out_is_written_out(folder: Path) -> None:
    content = tiny_study(MODEL)
    minimal = {key: content[key] for key in ("schema", "name", "workload")}
    resolved = yaml.safe_load(parse_study(minimal, "tiny.yaml", folder).to_yaml())
    assert resolved["budget"] == {"trials": 40, "minutes": None}
    assert resolved["objectives"] == ["latency_ms", "peak_vram_gib", "drift"]
    assert set(resolved["deadlines_s"]) == {
        *("start", "load", "apply", "first_call", "warm_up", "memory", "measure", "pictures", "stages", "judge")
    }
    assert resolved["workload"]["requests"][0]["weight"] == 1


def test_presets_are_configurations(folder: Path) -> None:
    space = {"presets": [[{"fused_qkv": None}, {"deepcache": {"interval": 2}}], []]}
    study = parse_study(tiny_study(MODEL, space=space), "tiny.yaml", folder)
    assert study.presets() == [Configuration.of({"fused_qkv": {}, "deepcache": {"interval": 2}}), Configuration()]


def test_requests_get_names(folder: Path) -> None:
    content = tiny_study(MODEL)
    del content["workload"]["requests"][1]["name"]
    description = parse_study(content, "tiny.yaml", folder).workload_description()
    assert [request["name"] for request in description["requests"]] == ["cat", "request-2"]


@pytest.mark.parametrize(
    ("requests", "sentence"),
    [
        ([{"name": "cat"}, {"name": "cat"}], "two requests are called 'cat'"),
        ([{"name": "request-2"}, {"name": None}], "two requests are called 'request-2'"),
    ],
)
def test_two_requests_of_one_name_would_overwrite_each_others_pictures(
    folder: Path, requests: list[dict[str, Any]], sentence: str
) -> None:
    content = tiny_study(MODEL)
    for request, name in zip(content["workload"]["requests"], requests, strict=True):
        request.update(name)
    with pytest.raises(UserError, match=sentence):
        parse_study(content, "tiny.yaml", folder)


def test_adapters_need_a_workload_in_python(folder: Path) -> None:
    content = tiny_study(MODEL)
    content["workload"]["requests"][0]["adapters"] = ["style"]
    with pytest.raises(UserError, match="requests with adapters need a workload in Python"):
        parse_study(content, "tiny.yaml", folder)


def test_a_file_with_former_names_of_keys_is_still_read(folder: Path) -> None:
    """Its schema version is the same."""
    former = {"measurement": {"floor_rounds": 1}, "quality": {"benign_floor": False}}
    study = parse_study({**tiny_study(folder / "model"), **former}, "study.yaml", folder)
    assert not study.quality.reordering_floor
    with pytest.raises(UserError, match=r"unknown key 'quality\.benign_floor'"):
        parse_study(
            {**tiny_study(folder / "model"), "quality": {"benign_floor": False, "reordering_floor": True}}, "s", folder
        )
