"""What people type: good and bad. Whatever is wrong is one sentence that says what to change, and exit code 2."""

import io
import json
import re
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from paretune.agent.progress import LaunchProgress
from paretune.agent.search import Event
from paretune.agent.trial import fork_server
from paretune.search_space import TECHNIQUES, Configuration, technique
from paretune.studies import Records
from rich.console import Console
from support.launched import Cli, Launched
from support.launching import tiny_study, write_study


@pytest.fixture
def study(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good study file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return write_study(tmp_path / "tiny.yaml", tiny_study(tiny_model))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("nonsense", "--set nonsense: write it as key.subkey=value"),
        ("=3", "--set =3: write it as key.subkey=value"),
        ("budget.trials=[", "--set budget.trials=[: the value is not YAML"),
        ("name.first=a", "--set name.first=a: name is not a section of the study"),
        ("workload.requests.7.seed=1", "--set workload.requests.7.seed=1: '7' is not one of the 2 items, which are"),
        ("workload.requests.0.seed.x=1", "--set workload.requests.0.seed.x=1: seed is not a section of the study"),
        ("budget.trails=3", "tiny.yaml: unknown key 'budget.trails'; did you mean 'trials'?"),
        ("workload.requests.0.hight_px=64", "tiny.yaml: unknown key 'workload.requests.0.hight_px'; did you mean 'hei"),
        ("limit.latency_ms=3", "tiny.yaml: unknown key 'limit'; did you mean 'limits'?"),
        ("budget.trials=many", "tiny.yaml: budget.trials: input should be a valid integer"),
        ("budget.trials=0", "tiny.yaml: budget.trials: input should be greater than or equal to 1, not 0"),
        ("limits.latency_ms=.inf", "tiny.yaml: limits.latency_ms: input should be a finite number, not inf"),
        ("workload.requests.0.guidance=.nan", "tiny.yaml: workload.requests.0.guidance: input should be "),
        ("workload.requests.0.arguments={x: .nan}", "tiny.yaml: workload.requests.0.arguments: numbers (finite ones)"),
        ("workload.requests.0.width_px=65", "tiny.yaml: workload.requests.0.width_px: input should be a multiple of 8"),
        ("workload.requests.0.pipeline=man", "tiny.yaml: workload: a request names the pipeline 'man', which is not d"),
        ("workload.requests=[]", "tiny.yaml: workload.requests: list should have at least 1 item"),
        ("workload.python=x.py", "tiny.yaml: workload: give either pipelines or python, one of the two"),
        ("workload=null", "tiny.yaml: workload: "),
        ("name=a/b", "tiny.yaml: name: "),
        ("schema=2", "tiny.yaml: schema: 2 is of a newer version of paretune, this one reads 1"),
        ("objectives=[speed]", "tiny.yaml: objectives.0: input should be 'latency_ms', "),
        ("limits.verdict=perfect", "tiny.yaml: limits.verdict: input should be 'bit-exact', "),
        ("device=tpu", "tiny.yaml: device: input should be 'auto', 'cuda' or 'cpu', not 'tpu'"),
        ("space.techniques={deepcach: {}}", "study tiny: there is no technique 'deepcach'; did you mean deepcache?"),
        (
            "space.techniques={deepcache: {intervall: 3}}",
            "study tiny: deepcache has no parameter 'intervall'; it has i",
        ),
        ("space.techniques={deepcache: {interval: 99}}", "study tiny: deepcache.interval cannot be 99; it is one of "),
        ("space.techniques={deepcache: {interval: '2'}}", "study tiny: deepcache.interval cannot be '2'; it is one of"),
        ("space.techniques=[deepcache]", "tiny.yaml: space.techniques: input should be a valid dictionary"),
        ("space.presets=[[{deepcache: {interval: 7}}]]", "study tiny, presets: deepcache.interval cannot be 7"),
        ("space.files=[nowhere.py]", "study tiny: the technique file "),
        ("workload.pipelines.main.model=./nowhere", "study tiny: pipeline main: there is no model folder "),
        ("workload.pipelines.main.model=.", "study tiny: pipeline main: the folder "),
        ("workload.pipelines.main.config=.", "study tiny: pipeline main: "),
        ("workload.pipelines.main.weights=random", "tiny.yaml: workload: pipeline main has random weights, so it ne"),
        ("workload.pipelines.main.share={unet: base}", "tiny.yaml: workload: pipeline main shares with 'base', which"),
    ],
)
def test_a_study_file_with_one_thing_wrong(study: Path, cli: Cli, setting: str, sentence: str) -> None:
    assert cli("launch", "tiny.yaml", "--set", setting).sentence().startswith(sentence)
    assert not Path("paretune.db").exists(), "nothing is made before the study is understood"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            None,
            "there is no study 'other.yaml': "
            "give a study file, or one that comes with paretune (comic, quickstart, sdxl)",
        ),
        ("a: [", "other.yaml is not YAML: "),
        (b"\xff\xfe\x00", "other.yaml is not YAML: "),
        ("", "other.yaml is not a study file: it should be a mapping with the keys schema, name and workload"),
        ("- a", "other.yaml is not a study file: it should be a mapping with the keys schema, name and workload"),
        ("schema: 1", "other.yaml: the key 'name' is missing"),
        ("schema: 1\nname: x\nworkload: {pipelines: {}}", "other.yaml: the key 'workload.requests' is missing"),
        ("1: 2", "other.yaml: "),
    ],
)
def test_a_file_that_is_no_study(study: Path, cli: Cli, content: str | bytes | None, sentence: str) -> None:
    if content is not None:
        Path("other.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli("launch", "other.yaml").sentence().startswith(sentence)


def test_an_unknown_study_names_those_there_are(cli: Cli) -> None:
    assert cli("launch", "quikstart").sentence() == (
        "there is no study 'quikstart': give a study file, or one that comes with paretune (comic, quickstart, sdxl)"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def load(device:\n", "is not Python: "),
        ("def run(pipelines, request): ...\n", "has no function load(device)"),
        ("from torch import load\n", "has no function run(pipelines, request)"),
    ],
)
def test_a_python_workload_that_cannot_work_is_seen_before_anything_starts(
    study: Path, cli: Cli, text: str, sentence: str
) -> None:
    Path("product.py").write_text(text)
    settings = ("--set", "workload.pipelines=null", "--set", "workload.python=product.py")
    assert (
        cli("launch", "tiny.yaml", *settings)
        .sentence()
        .startswith(f"the workload file {Path('product.py').resolve()} {sentence}")
    )


def test_a_python_workload_that_raises(study: Path, cli: Cli) -> None:
    Path("product.py").write_text(
        "run = None\ndef load(device):\n    raise RuntimeError('no\\nlicence')\ndef run(p, r): 0\n"
    )
    settings = ("--set", "workload.pipelines=null", "--set", "workload.python=product.py")
    said = cli("launch", "tiny.yaml", *settings).sentence()
    log = Path("paretune.files/tiny/trial-0000/log.txt").resolve()
    assert said == (f"the unchanged pipelines could not be measured: load: RuntimeError: no licence; the log is {log}")
    assert Records("sqlite:///paretune.db").studies() == []


def test_a_damaged_model_folder(study: Path, tiny_model: Path, cli: Cli) -> None:
    shutil.copytree(tiny_model, "damaged")
    weights = Path("damaged/unet/diffusion_pytorch_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    said = cli("launch", "tiny.yaml", "--set", "workload.pipelines.main.model=damaged").sentence()
    assert said.startswith("the unchanged pipelines could not be measured: load: ")
    assert Records("sqlite:///paretune.db").studies() == [], "and the name is free for the mended model"


def test_a_misspelt_pipeline_class_is_corrected() -> None:
    with pytest.raises(
        AttributeError, match=r"no 'StableDifusionXLPipeline'; did you mean 'StableDiffusionXLPipeline'"
    ):
        fork_server._preload("cpu", ["StableDifusionXLPipeline"])


NO_DATABASE = "there is no database "


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "nonsense",
            "--storage 'nonsense' is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/DATAB",
        ),
        ("mysql://u@h/d", "--storage mysql://u@h/d is not a database URL; "),
        ("postgresql://u:secret@h:port/d", "--storage that was given is not a database URL; "),
        ("sqlite:////proc/nowhere/a.db", ("the database sqlite:////proc/nowhere/a.db cannot be used: ", NO_DATABASE)),
        ("sqlite:///tiny.yaml", "the database sqlite:///tiny.yaml cannot be used: file is not a database"),
        ("sqlite:///tiny.yaml/a.db", ("the database sqlite:///tiny.yaml/a.db cannot be used: ", NO_DATABASE)),
        ("postgresql://u:secret@127.0.0.1:1/d", "the database postgresql://u:***@127.0.0.1:1/d cannot be used: "),
    ],
)
@pytest.mark.parametrize("arguments", [("launch", "tiny.yaml"), ("best", "tiny"), ("export", "tiny", "-o", "b")])
def test_a_database_that_cannot_be_used(
    study: Path, cli: Cli, arguments: tuple[str, ...], url: str, sentence: str | tuple[str, ...]
) -> None:
    before = study.read_text()
    said = cli(*arguments, "--storage", url).sentence()
    assert said.startswith(sentence)
    assert "secret" not in said
    assert study.read_text() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["best", "tinny"], "there is no study 'tinny' in sqlite:"),
        (
            ["best", "tiny", "--limit", "speed>3"],
            "--limit 'speed>3': write it as FIGURE<=NUMBER, with one of latency_ms",
        ),
        (["best", "tiny", "--limit", "latency_ms<=fast"], "--limit 'latency_ms<=fast': write it as "),
        (["best", "tiny", "--limit", "latency_ms<=1e"], "--limit 'latency_ms<=1e': write it as "),
        (["best", "tiny", "--by", "beauty"], "--by beauty: one of latency_ms, peak_vram_gib, drift, cold_start_s"),
        (["best", "tiny", "--verdict", "good"], "--verdict good: one of bit-exact, imperceptible, near-lossless, "),
        (["best", "tiny", "--verdict", "broken"], "--verdict broken: one of "),
        (["best", "tiny", "--loss", "some"], "--loss some: one of bit-identical, reordered, approximate"),
        (
            ["best", "tiny", "--limit", "latency_ms<=0"],
            "no configuration qualifies: none of 4 measured trials keep late",
        ),
        (
            ["export", "tiny", "-o", "out", "--trial", "99"],
            "study tiny has no trial 99; paretune best tiny --all lists",
        ),
        (
            ["export", "tiny", "-o", "out", "--trial", "1", "--verdict", "bit-exact", "--by", "drift"],
            "--trial 1 says which one already: leave out --verdict, --by",
        ),
        (["export", "tiny", "-o", "out", "--trial", "3"], "trial 3 of tiny ended as apply_error: apply: ValueError: "),
    ],
)
def test_questions_that_have_no_answer(
    launched: Launched, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if "<=0" in sentence or "latency_ms<=0" in arguments:
        sentence = sentence.replace("4 measured", f"{len(launched.results().complete)} measured")
    assert cli(*arguments, "--storage", launched.storage).sentence().startswith(sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "objectives=[latency_ms]"], "exists with other objectives (latency_ms, peak_vram_gib, drift): "),
        (
            ["--set", "workload.requests.0.seed=9"],
            "exists with another workload or changed Python files: ",
        ),
        (["--set", "space.techniques={deepcache: {}}"], "exists with another search space: "),
        (["--set", "limits.verdict=visible"], "exists with other limits: "),
    ],
)
def test_a_study_is_continued_only_as_what_it_was(
    launched: Launched, cli: Cli, arguments: list[str], sentence: str
) -> None:
    before = [(trial.number, trial.measurements) for trial in launched.results().trials]
    said = cli("launch", str(launched.file), "--storage", launched.storage, *arguments).sentence()
    assert said == f"study tiny {sentence}launch this one under another --name"
    assert [(trial.number, trial.measurements) for trial in launched.results().trials] == before


def test_a_name_that_is_empty(study: Path, cli: Cli) -> None:
    assert "name" in cli("launch", "tiny.yaml", "--name", "").sentence()


def test_the_progress_bar_fits_into_a_narrow_terminal_and_knows_the_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=24)
    with LaunchProgress(console) as progress:
        progress.show(Event("trial", "one", done=4, total=12, at_most_s=48.0))
        progress.show(Event("result", "one: 600 ms", done=5, total=12, front=2, at_most_s=40.0))
        progress._progress.refresh()
        progress.show(Event("block", "confirming, block 4 of 4: " + "long words " * 20, done=11, total=12))
        progress._progress.refresh()
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).replace("\r", "\n").split("\n")
    searching, confirming = ([line for line in lines if f"{done}/12 ━" in line][-1] for done in (5, 11))
    assert re.search(r"front 2 .* left ([0-9]|[1-3][0-9]|40) s", searching), "no longer than the search may take"
    assert re.search(r"front 2 .* left \? confirming, bl.*…", confirming), "of blocks, nothing is known yet"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("text", ["soon", "10", "-3m", "0s", "3 days"])
def test_a_time_that_is_none(study: Path, cli: Cli, text: str) -> None:
    assert cli("launch", "tiny.yaml", f"--max-time={text}").sentence() == (
        f"--max-time {text}: write it as 90s, 20m or 3h"
    )


def test_best_as_a_table_and_as_json_say_the_same(launched: Launched, cli: Cli) -> None:
    table = cli("best", "tiny", "--storage", launched.storage)
    best = json.loads(cli("best", "tiny", "--json", "--storage", launched.storage).out)
    assert table.code == 0
    for figure in ("latency_ms", "peak_vram_gib"):
        assert best["figures"][figure]["text"] in table.out
    assert best["speed_text"] in table.out
    results = launched.results()
    assert (best["number"], best["acceptable"]) == (results.best().number, True)
    assert best["number"] in [trial.number for trial in results.front]


def test_best_keeps_to_what_is_asked(launched: Launched, cli: Cli) -> None:
    def best(*conditions: str) -> dict[str, Any]:
        return dict(json.loads(cli("best", "tiny", "--json", "--storage", launched.storage, *conditions).out))

    assert best("--verdict", "bit-exact")["figures"]["drift"]["value"] == 0
    assert best("--loss", "bit-identical")["number"] in {
        trial.number for trial in launched.results().complete if trial.configuration.loss == "bit-identical"
    }
    assert best("--limit", "drift<=0", "--by", "cold_start_s")["verdict"] == "bit-exact"


def test_best_lists_every_trial_with_why_it_failed(launched: Launched, cli: Cli) -> None:
    said = cli("best", "tiny", "--all", "--storage", launched.storage)
    assert said.code == 0
    assert "fail: apply: ValueError: this U-Net is [/of] the wrong [red]shape" in said.out
    assert "(breaks a limit)" in said.out
    trials = json.loads(cli("best", "tiny", "--all", "--json", "--storage", launched.storage).out)
    assert [trial["number"] for trial in trials] == [trial.number for trial in launched.results().trials]


def test_version_is_that_of_the_package(cli: Cli) -> None:
    said = cli("--version")
    assert (said.code, said.out.strip()) == (0, f"paretune {metadata.version('paretune')}")


def test_techniques_lists_forty_variants_with_what_each_is_needs_and_may_lose(cli: Cli) -> None:
    variants = json.loads(cli("techniques", "--json").out)
    assert len({item["variant"] for item in variants}) == len(variants) >= 40
    for item in variants:
        known = technique(item["name"])
        assert str(Configuration.of({item["name"]: item["values"]})) == item["variant"]
        assert item["axis"] == known.axis
        assert item["loss"] in ("bit-identical", "reordered", "approximate", "different by design")
        assert item["roles"] or item["on_request"]
        assert item["runs_here"] is (item["reason"] is None)
        assert all(need["command"] for need in item["needs"])
    fast = next(item for item in variants if item["name"] == "stable_fast")
    assert fast["needs"][0]["package"] == "stable-fast"
    assert fast["needs"][0]["command"].endswith("stable-fast==1.0.5")


def test_techniques_lists_each_with_its_choices(cli: Cli) -> None:
    listed = {item["name"]: item for item in json.loads(cli("techniques", "--json").out)}
    assert {known.name for known in TECHNIQUES} <= set(listed)
    assert listed["deepcache"]["parameters"]["interval"] == [2, 3, 4, 5]
    for item in listed.values():
        assert item["runs_here"] is (item["reason"] is None)
    assert "guidance_cutoff" in cli("techniques").out


@pytest.mark.parametrize("text", ["[1, 2]", "[/red]", "a [bold]word", "\\[x]"])
def test_square_brackets_are_printed_as_they_are(cli: Cli, text: str) -> None:
    assert cli("launch", text).sentence().startswith(f"there is no study {text!r}: ")


def _nothing(*_: object) -> None:
    pass


@pytest.mark.parametrize("make", [_nothing, Path.mkdir])
def test_verify_of_what_is_no_bundle(tmp_path: Path, cli: Cli, make: Callable[[Path], None]) -> None:
    make(tmp_path / "bundle")
    assert cli("verify", str(tmp_path / "bundle")).sentence() == (
        f"{tmp_path / 'bundle'} is not a bundle: it has no manifest.json"
    )
