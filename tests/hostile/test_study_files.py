"""Study files that nobody should have written: each is one sentence, at once, and nothing is started or stored."""

import copy
import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from paretune.studies import Study, UserError, parse_study
from support.launched import Cli

PAGE = Path(__file__).parents[2] / "docs" / "study-file.md"
EVERY_KEY: dict[str, Any] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])
MOST_S = 5.0


def edited(path: str, value: Any) -> dict[str, Any]:
    """The example of docs/study-file.md, in which every key stands, with one of them changed."""
    content = copy.deepcopy(EVERY_KEY)
    node: Any = content
    *parents, last = path.split(".")
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return content


MAIN, FIRST = "workload.pipelines.main", "workload.requests.0"
TENFOLD = "abcdefghijklmnopqrst"


def multiplied(written: str) -> str:
    """Lines of which each holds the one above ten times."""
    pairs = itertools.pairwise(TENFOLD)
    return "".join(f"{name}: &{name} {written.format(', '.join([f'*{above}'] * 10))}\n" for above, name in pairs)


WRITTEN: dict[str, tuple[str, str]] = {
    "nothing": ("", "it should be a mapping"),
    "a list": ("- schema: 1", "it should be a mapping"),
    "a text": ("schema", "it should be a mapping"),
    "no end": ("schema: [1", "is not YAML"),
    "a key twice": ("schema: 1\nname: a\nname: b", "has the key 'name' twice, again in line 3"),
    "a key twice further down": ("workload: {python: a.py, python: b.py}", "has the key 'python' twice"),
    "a list as a key": ("? [a]\n: 1", "has a list or a mapping as a key"),
    "10^20 aliases": ("a: &a [x]\n" + multiplied("[{}]"), "values once its aliases are written out"),
    "merged without bound": ("a: &a {x: 1}\n" + multiplied("{{<<: [{}]}}"), "values once its aliases"),
    "an alias of itself": ("a: &a [*a]", "an alias inside of what it stands for"),
    "an alias of nothing": ("a: *b", "is not YAML"),
    "100,000 brackets": ("a: " + "[" * 100_000, "nested more than 32 deep"),
    "100,000 braces": ("{a: " * 100_000, "nested more than 32 deep"),
    "100,000 dashes": ("- " * 100_000, "nested more than 32 deep"),
    "a chain of aliases": (
        "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(500)),
        "nested more than 32 deep once its aliases",
    ),
    "a tag of Python": ("a: !!python/object/apply:os.system [echo]", "has the tag"),
    "a tag": ("a: !!int abc", "has the tag"),
    "5,000 digits": ("a: " + "9" * 5000, "has a value that cannot be read"),
    "the 31st of February": ("a: 2020-02-31", "has a value that cannot be read"),
    "NUL": ('a: "\\0"', "a character in line 1 that no text can hold"),
    "half of a pair": ('a: "\\ud800"', "a character in line 1 that no text can hold"),
    "a control character": ("a: \x1b[2J", "is not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "is not YAML"),
    "a tabulator": ("a:\n\tb: 1", "is not YAML"),
    "a megabyte": ("a: " + "x" * (1 << 20), "is larger than 512 KiB"),
}
CHANGED: list[tuple[str, Any, str]] = [
    ("schema", True, "schema: should be 1, not True"),
    ("schema", 1.0, "schema: should be 1, not 1.0"),
    ("schema", "1", "schema: should be 1, not '1'"),
    ("schema", 2, "schema: 2 is of a newer version of paretune, this one reads 1"),
    ("schema", 10**80, "is of a newer version"),
    ("name", "a b", "name: string should match pattern"),
    ("name", "../up", "name: string should match pattern"),
    ("name", "a\n", "name: string should match pattern"),
    ("name", "x" * 81, "name: string should have at most 80 characters"),
    ("nmae", "a", "unknown key 'nmae'; did you mean 'name'?"),
    ("a\nb\x1b[2J", 1, "unknown key 'a\\nb\\x1b[2J'"),
    ("x" * 5000, 1, "unknown key 'xxx"),
    (f"{FIRST}.steps", True, "workload.requests.0.steps: input should be a valid integer, not True"),
    (f"{FIRST}.steps", 20.0, "steps: input should be a valid integer"),
    (f"{FIRST}.steps", "20", "steps: input should be a valid integer"),
    (f"{FIRST}.steps", 10**12, "steps: input should be less than or equal to 10000"),
    (f"{FIRST}.batch", 10**12, "batch: input should be less than or equal to 1024"),
    (f"{FIRST}.width_px", 8 * 10**9, "width_px: input should be less than or equal to 16384"),
    (f"{FIRST}.width_px", 1001, "width_px: input should be a multiple of 8"),
    (f"{FIRST}.guidance", float("nan"), "guidance: input should be a finite number"),
    (f"{FIRST}.guidance", True, "guidance: input should be a valid number"),
    (f"{FIRST}.weight", float("inf"), "weight: input should be "),
    (f"{FIRST}.seed", 2**64, "seed: input should be less than or equal to"),
    (f"{FIRST}.seed", -1, "seed: input should be greater than or equal to 0"),
    (f"{FIRST}.adapters", ["ink"], "need a workload in Python"),
    (f"{FIRST}.adapters", ["ink", "ink"], "'ink' stands in the list twice"),
    (f"{FIRST}.arguments", {"a": float("nan")}, "arguments: numbers (finite ones)"),
    (
        f"{FIRST}.arguments",
        {"num_inference_steps": 5},
        "paretune sets num_inference_steps itself, from the request's steps",
    ),
    (f"{FIRST}.arguments", {"generator": 5}, "paretune sets generator itself, from the request's seed"),
    (f"{FIRST}.arguments", {"prompt": "a"}, "paretune sets prompt itself, from the request's prompt"),
    (f"{FIRST}.arguments", {"output_type": "pil"}, "paretune sets output_type itself, because it judges"),
    (f"{FIRST}.arguments", {"num_images_per_prompt": 2}, "write the number of pictures as the request's batch"),
    (f"{FIRST}.arguments", {"image": "a.png"}, "from the request's image, a file"),
    (f"{FIRST}.image", "gone.png", "requests: image: there is no file"),
    (f"{FIRST}.image", "study.yaml", "cannot be read as a picture"),
    (f"{FIRST}.mask_image", ".", "requests: mask_image: there is no file"),
    (f"{FIRST}.pipeline", "second", "names the pipeline 'second', which is not described"),
    (f"{FIRST}.name", "city", "two requests are called 'city'"),
    ("workload.requests", [], "requests: list should have at least 1 item"),
    ("workload.requests", {"a": 1}, "requests: input should be a valid list"),
    ("workload.python", "own.py", "either pipelines or python"),
    (f"{MAIN}.model", "x" * 5000, "a path has 1 to 4,000 characters"),
    (f"{MAIN}.model", "y/" + "x" * 300, "none of its parts more than 255 bytes"),
    (f"{MAIN}.model", "", "a path has 1 to 4,000 characters"),
    (f"{MAIN}.model", "./gone", "there is no model folder"),
    (f"{MAIN}.model", "~nobody-of-that-name/model", "there is no ~nobody-of-that-name/model"),
    (f"{MAIN}.model", "sd15.safetensors", "StableDiffusionXLPipeline.from_single_file(...)"),
    (f"{MAIN}.model", "./sd15.ckpt", "is a single file, and paretune loads folders: write workload.python"),
    (f"{MAIN}.safety_checker", None, "a component is left out with without: [safety_checker]"),
    (f"{MAIN}.safety_checker", 1, "unknown key 'workload.pipelines.main.safety_checker'"),
    (f"{MAIN}.dtype", "float8", "dtype: input should be 'float32', 'float16' or 'bfloat16'"),
    (f"{MAIN}.config", "gone", "has no model_index.json"),
    (f"{MAIN}.weights", "random", "has random weights, so it needs config"),
    (f"{MAIN}.share", {"unet": "other"}, "shares with 'other', which is not written above it"),
    ("objectives", ["latency_ms", "latency_ms"], "objectives: 'latency_ms' stands in the list twice"),
    ("objectives", [], "objectives: list should have at least 1 item"),
    ("objectives", ["speed"], "objectives.0: input should be"),
    ("limits.verdict", "perfect", "limits.verdict: input should be"),
    ("limits.latency_ms", True, "limits.latency_ms: input should be a valid number"),
    ("space.techniques", {"deepcache": {"interval": [2, 2]}}, "2 stands in the list twice"),
    ("space.techniques", {"deepcache": {"interval": True}}, "deepcache.interval cannot be True"),
    ("space.techniques", {"warp": {}}, "warp"),
    ("space.techniques", {"deepcache": [2]}, "space.techniques.deepcache: input should be a valid dictionary"),
    ("space.presets", [[{"deepcache": {"interval": 2}}, {"deepcache": {"interval": 3}}]], "names each technique once"),
    ("space.files", ["gone.py"], "gone.py"),
    ("space.files", ["study.yaml"], "study.yaml"),
    ("space.files", ["a.py", "a.py"], "'a.py' stands in the list twice"),
    ("quality.files", ["gone.py"], "quality.files: there is no file"),
    ("quality.weights", {"lpips": "gone"}, "quality.weights.lpips: there is no"),
    ("quality.weights", {"lpisp": "gone"}, "quality.weights.lpisp: input should be"),
    ("quality.pictures.screen", 10**15, "screen: input should be less than or equal to 100000"),
    ("budget.trials", 10**15, "budget.trials: input should be less than or equal to 100000"),
    ("budget.minutes", float("inf"), "budget.minutes: input should be "),
    ("sampler.seed", 2**40, "sampler.seed: input should be less than or equal to"),
    ("finalists.blocks", 10**9, "finalists.blocks: input should be less than or equal to 1000"),
    ("deadlines_s.load", 1e300, "deadlines_s.load: input should be less than or equal to"),
    ("device", ["cpu"], "device: input should be"),
    ("description", {"a": 1}, "description: input should be a valid string"),
    ("price_per_gpu_hour", True, "price_per_gpu_hour: input should be a valid number"),
]
SET: list[tuple[str, str]] = [
    ("=1", "write it as key.subkey=value"),
    ("budget", "write it as key.subkey=value"),
    ("budget.trials.a=1", "trials is not a section of the study"),
    ("workload.requests.9.steps=1", "'9' is not one of the 2 items"),
    ("workload.requests." + "9" * 5000 + ".steps=1", "is not one of the 2 items"),
    ("workload.requests.0.arguments" + ".a" * 3000 + "=1", "no key of a study lies so deep"),
    ("budget.trials=[1", "the value is not YAML"),
    ("budget={trials: 1, trials: 2}", "the value has the key 'trials' twice"),
    ("budget.trials=" + "[" * 50_000, "the value is nested more than 32 deep"),
    ("name=true", "name: input should be a valid string, not True"),
    ("x" * 100_000 + "=1", "unknown key 'xxx"),
]


def launched(cli: Cli, folder: Path, *more: str) -> str:
    """What a launch of study.yaml says; that nothing was made, and in how many seconds."""
    began = time.monotonic()
    said = cli("launch", str(folder / "study.yaml"), "--storage", f"sqlite:///{folder}/new/paretune.db", *more)
    assert time.monotonic() - began < MOST_S
    assert not (folder / "new").exists(), "nothing is made before the study was read"
    return said.sentence()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_no_study_is_one_sentence(name: str, cli: Cli, tmp_path: Path) -> None:
    text, sentence = WRITTEN[name]
    (tmp_path / "study.yaml").write_text(text)
    assert sentence in launched(cli, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "sentence"), CHANGED, ids=[f"{path[-30:]}={str(value)[:20]}" for path, value, _ in CHANGED]
)
def test_a_key_that_cannot_be_meant_is_one_sentence(
    path: str, value: Any, sentence: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(edited(path, value)))
    assert sentence in launched(cli, tmp_path)


@pytest.mark.parametrize(("setting", "sentence"), SET, ids=[setting[:30] for setting, _ in SET])
def test_a_setting_that_cannot_be_meant_is_one_sentence(setting: str, sentence: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(EVERY_KEY))
    said = launched(cli, tmp_path, "--set", setting)
    assert sentence in said
    assert len(said) < 1500


@pytest.mark.parametrize("file", ["x" * 5000, "/" + "x/" * 3000, "a\0b", ".", "/dev/null", "\udcff", "gone.yaml"])
def test_what_is_no_file_is_no_study(file: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no study" in cli("launch", file).sentence()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoded", [b"\xff\xfe\x00", "schema: 1".encode("utf-16"), b"a: \xc3\x28"])
def test_what_is_not_utf_8_is_one_sentence(encoded: bytes, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(encoded)
    assert "is not YAML" in launched(cli, tmp_path)


# Generated from the schema itself: a new key is tried without a line here.

SCHEMA = Study.model_json_schema()
OF_ANOTHER_TYPE: dict[str, list[Any]] = {
    "integer": [True, "12", 1.5, [1], {"a": 1}, -(10**30), 10**30],
    "number": [True, "12", [1.0], {"a": 1}, float("nan"), float("-inf"), -1e300],
    "string": [1, True, [], {"a": 1}],
    "boolean": ["yes!", 1, [True]],
    "array": ["a", {"a": 1}, 7, True],
    "object": ["a", [1], 7, True],
}


def every_key(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, schema) of every key, with the items of lists and the values of mappings that the example has."""
    for key, of_key in schema.get("properties", {}).items():
        below = f"{path}.{key}" if path else key
        for one in of_key.get("anyOf", [of_key]):
            one = resolved(one)
            yield below, one
            yield from every_key(one, below)
            if "items" in one:
                yield from every_key(resolved(one["items"]), f"{below}.0")
            if below == "workload.pipelines":
                for of_pipelines in one.get("patternProperties", {}).values():
                    yield from every_key(resolved(of_pipelines), MAIN)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def wrong_values() -> Iterator[tuple[str, Any]]:
    kinds: dict[str, set[str]] = {}
    for path, schema in every_key(SCHEMA):
        kinds.setdefault(path, set()).add(schema.get("type", "string"))
    for path, types in kinds.items():
        for value in (value for kind in sorted(types - {"null"}) for value in OF_ANOTHER_TYPE[kind]):
            fits = (isinstance(value, str) and "string" in types) or (isinstance(value, dict) and "object" in types)
            if not fits and not (isinstance(value, list) and "array" in types):
                yield path, value


GENERATED = list(wrong_values())


def test_every_key_is_tried() -> None:
    assert len(GENERATED) > 250
    tried = {path.rpartition(".")[2] for path, _ in GENERATED}
    for schema in (SCHEMA, *SCHEMA["$defs"].values()):
        assert set(schema.get("properties", {})) <= tried


@pytest.mark.parametrize(("path", "value"), GENERATED, ids=[f"{path}={str(value)[:9]}" for path, value in GENERATED])
def test_a_value_of_another_type_is_refused_by_its_key(path: str, value: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"^study\.yaml: \S") as refused:
        parse_study(edited(path, value), "study.yaml", tmp_path)
    assert time.monotonic() - began < MOST_S
    assert len(str(refused.value).splitlines()) == 1
    assert path.split(".")[0] in str(refused.value)
