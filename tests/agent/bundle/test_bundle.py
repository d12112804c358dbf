"""Export and verify: what ships is what was measured, it runs without paretune, and every change is noticed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from paretune.agent.bundle import MANIFEST, SCHEMA_VERSION, entries_of, export, files_of, verify
from paretune.agent.bundle.manifest import is_bundle
from paretune.agent.measuring import contender
from paretune.agent.trial import run_script
from paretune.objectives.pictures import save_png
from paretune.search_space import Configuration
from paretune.studies import sha256
from PIL import Image
from support.isolated import packages_without_paretune, python
from support.launched import Cli, Launched

DEEPCACHE = {"deepcache": {"interval": 2, "branch": 1}}

# What a worker does in production: its own loading, its own call, and one line of ours.
WORKER = """
import sys
import torch
from diffusers import StableDiffusionXLPipeline
model, bundle, out = sys.argv[1:]
sys.path.insert(0, bundle)
from apply import apply
pipeline = StableDiffusionXLPipeline.from_pretrained(model)
apply(pipeline)
for name, prompt, seed, batch in (("cat", "a cat", 1, 1), ("dog", "a dog", 2, 2)):
    seeds = [torch.Generator("cpu").manual_seed(seed + index) for index in range(batch)]
    settings = dict(width=64, height=64, num_inference_steps=5, guidance_scale=4.0, generator=seeds)
    for index, image in enumerate(pipeline(prompt=[prompt] * batch, **settings).images):
        image.save(f"{out}/{name}-{index}.png")
"""


@pytest.fixture(scope="module")
def bundle(launched: Launched, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(launched.results(), launched.trial(DEEPCACHE), tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """One to change."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def forge(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the evidence so that the manifest does not show it."""
    file = bundle / "evidence" / "measurements.json"
    evidence = json.loads(file.read_text())
    change(evidence["trial"]["figures"])
    file.write_text(json.dumps(evidence))
    sign(bundle)


def sign(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"] = entries_of(bundle)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def pixels(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {file.name: np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))}


def test_bundle_has_everything_and_the_very_apply_py_that_was_measured(bundle: Path, launched: Launched) -> None:
    trial = launched.trial(DEEPCACHE)
    assert {path.name for path in bundle.iterdir()} == {
        *("apply.py", "configuration.yaml", "environment.txt", "README.md", "manifest.json", "check", "evidence")
    }
    assert (bundle / "apply.py").read_text() == (trial.folder / "apply.py").read_text()
    assert Configuration.from_yaml((bundle / "configuration.yaml").read_text()) == trial.configuration
    manifest = json.loads((bundle / MANIFEST).read_text())
    assert (manifest["trial"], manifest["configuration_key"]) == (trial.number, trial.configuration.key)
    assert set(manifest["files"]) == set(files_of(bundle))
    evidence = json.loads((bundle / "evidence" / "measurements.json").read_text())
    assert evidence["trial"]["measurements"] == trial.measurements
    assert evidence["trial"]["figures"]["latency_ms"] == trial.figure("latency_ms")
    assert evidence["reference"]["measurements"] == launched.results().reference.measurements
    pins = (bundle / "environment.txt").read_text().splitlines()
    assert f"diffusers=={launched.results().fingerprint.packages['diffusers']}" in pins
    assert not [pin for pin in pins if pin.startswith(("optuna", "torchao"))], "it needs neither"


def test_it_holds_no_path_of_the_machine_that_exported_it(bundle: Path, tiny_model: Path, launched: Launched) -> None:
    places = {str(tiny_model), str(launched.file.parent), str(Path(__file__).parents[3]), str(Path.home()), "/tmp/"}
    for name in files_of(bundle):
        if not name.endswith(".png"):
            text = (bundle / name).read_text()
            assert not [place for place in places if place in text], name


@pytest.mark.slow
def test_a_machine_that_does_not_know_the_model_is_told_where_it_is(
    copy: Path, tiny_model: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(copy, lambda figures: figures.update(latency_ms=1e6, peak_vram_gib=1e3))
    monkeypatch.setenv("PARETUNE_PLACES", str(tmp_path / "places"))
    asked = cli("verify", str(copy)).sentence()
    assert asked.startswith(f"{copy} needs the model folder 'tiny-sdxl' (digest ")
    assert asked.endswith("say where it is with --model main=FOLDER")
    assert "that is not the model of the evidence" in cli("verify", str(copy), "--model", "main=/etc").sentence()
    moved = Path(shutil.copytree(tiny_model, tmp_path / "elsewhere"))
    assert cli("verify", str(copy), "--model", f"main={moved}").code == 0
    verify(copy)  # it is remembered


def test_a_bundle_can_be_compared_with_its_own_study(bundle: Path, tiny_model: Path, launched: Launched) -> None:
    shipped, measured = contender(str(bundle), launched.storage), contender("tiny:reference", launched.storage)
    assert json.dumps(shipped.same, sort_keys=True) == json.dumps(measured.same, sort_keys=True)
    assert shipped.workload["pipelines"]["main"]["model"] == str(tiny_model), "found where it was"


@pytest.mark.slow
def test_what_compiles_nothing_is_proven_to_start_ready(bundle: Path, cli: Cli) -> None:
    said = cli("verify", str(bundle), "--cold", "--json")
    found = json.loads(said.out)
    checks = {check["name"]: check["text"] for check in found["checks"]}
    assert (said.code, found["passed"]) == (0, True), checks
    assert checks["compiled"] == "nothing while loading, and nothing at 2 requests, each served twice"
    assert checks["artefacts"] == "it has none, and needs none"
    assert checks["pictures"].startswith("3 of 3 pictures")


def test_readme_says_what_was_done_and_that_it_approximates(bundle: Path) -> None:
    text = (bundle / "README.md").read_text()
    assert "`deepcache`, interval = 2, branch = 1" in text
    assert "it is not lossless, however close its pictures are" in text
    assert "{{" not in text


def test_without_paretune_it_makes_the_pictures_of_the_trial_bit_for_bit(
    bundle: Path, tiny_model: Path, tmp_path: Path
) -> None:
    packages = packages_without_paretune(tmp_path / "packages")
    absent = python("-c", "import paretune", paths=[packages], cwd=tmp_path)
    assert "No module named 'paretune'" in absent.stderr

    (tmp_path / "out").mkdir()
    (tmp_path / "worker.py").write_text(WORKER)
    worker = Path(shutil.copytree(bundle, tmp_path / "worker"))
    ran = python("worker.py", str(tiny_model), str(worker), "out", paths=[packages], cwd=tmp_path)

    assert ran.returncode == 0, ran.stderr
    made, evidence = pixels(tmp_path / "out"), pixels(bundle / "evidence" / "winner")
    reference = pixels(bundle / "evidence" / "reference")
    assert list(made) == list(evidence) == list(reference) == ["cat-0.png", "dog-0.png", "dog-1.png"]
    for name, picture in made.items():
        assert np.array_equal(picture, evidence[name]), name
    assert any(not np.array_equal(made[name], reference[name]) for name in made), "the technique changed something"


def test_without_paretune_its_check_measures(copy: Path, tmp_path: Path) -> None:
    packages = packages_without_paretune(tmp_path / "packages")
    arguments = ["--device", "cpu", "--calls", "1", "--most-calls", "1", "--pictures", "cat", "--out", "out"]
    ran = python(str(copy / "check" / "run.py"), *arguments, paths=[packages], cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("latency ")
    measured = json.loads((tmp_path / "out" / "result.json").read_text())
    evidence = json.loads((copy / "evidence" / "measurements.json").read_text())["trial"]["measurements"]
    added = {"phases_s", "after_s", "quality", "drift"}  # by the process around it
    assert set(measured) - added == set(evidence) - added
    with np.load(tmp_path / "out" / "pictures.npz") as made:
        assert "cat" in made.files


def test_verify_passes_and_leaves_the_bundle_as_it_was(copy: Path, cli: Cli) -> None:
    # How long calls take on the machine that runs the tests is not what is tested.
    forge(copy, lambda figures: figures.update(latency_ms=1e6, peak_vram_gib=1e3))
    before = {name: sha256(copy / name) for name in files_of(copy)}
    said = cli("verify", str(copy), "--json")
    found = json.loads(said.out)
    assert {check["name"]: check["passed"] for check in found["checks"]} == {
        **dict.fromkeys(("files", "machine", "latency_ms", "peak_vram_gib", "pictures"), True)
    }
    assert (said.code, found["passed"]) == (0, True)
    assert {name: sha256(copy / name) for name in files_of(copy)} == before


def plant(source: Path) -> None:
    """Byte code that Python takes for the source's, beside it, and that does something else."""
    code = compile(source.read_text() + "\nraise SystemExit('FOREIGN CODE RAN')\n", str(source), "exec")
    target = Path(importlib.util.cache_from_source(str(source)))
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(importlib._bootstrap_external._code_to_hash_pyc(code, b"\0" * 8, checked=False))  # type: ignore[attr-defined]


def test_planted_byte_code_is_refused_and_never_runs(copy: Path, tmp_path: Path, cli: Cli) -> None:
    """Byte code with an unchecked hash, beside files that are untouched."""
    for name in ("apply.py", "check/workload.py", "check/measuring/__init__.py", "check/measuring/latency.py"):
        plant(copy / name)
    said = cli("verify", str(copy))
    assert re.search(r": \S*__pycache__/\S+\.pyc is not part of the bundle", said.sentence())
    assert "FOREIGN" not in said.out + said.err
    # Whoever runs the check by hand has asked nobody whether the files are the bundle's.
    arguments = ["--device", "cpu", "--calls", "1", "--most-calls", "1", "--pictures", "cat"]
    environment = {**os.environ, "PYTHONPATH": str(packages_without_paretune(tmp_path / "packages"))}
    run_by_hand = [sys.executable, "-S", str(copy / "check" / "run.py"), *arguments]
    ran = subprocess.run(run_by_hand, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (ran.returncode, "FOREIGN" in ran.stdout + ran.stderr) == (0, False), ran.stderr


def test_what_a_worker_leaves_behind_is_named_and_replaced(copy: Path, tmp_path: Path, cli: Cli) -> None:
    """Importing apply.py makes Python write byte code: verify says which, and exporting again replaces it."""
    writing = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([sys.executable, "-c", "import apply"], cwd=copy, env=writing, check=True)
    (left,) = (copy / "__pycache__").iterdir()
    sentence = cli("verify", str(copy)).sentence()
    assert sentence.startswith(f"{copy}: __pycache__/{left.name} is not part of the bundle")
    assert sentence.endswith("delete every __pycache__ folder in the bundle")
    assert "PYTHONDONTWRITEBYTECODE=1" in (copy / "README.md").read_text()
    assert is_bundle(copy)


def test_that_verifying_runs_code_is_said_wherever_one_may_look(copy: Path, cli: Cli) -> None:
    (copy / "apply.py").unlink()
    for text in (cli("verify", "--help").out, (copy / "README.md").read_text(), cli("verify", str(copy)).out):
        words = " ".join(text.replace("│", " ").split())
        assert re.search("runs the code in (it|the bundle)", words), words
        assert "bundles from people you trust" in words
        assert "damage, not forgery" in words


@pytest.mark.slow
def test_verify_compiles_where_it_is_told_to(copy: Path, tmp_path: Path) -> None:
    script = copy / "apply.py"
    where = 'pathlib.Path(os.environ["TORCHINDUCTOR_CACHE_DIR"], "kernel").touch()'
    script.write_text(f"{script.read_text()}\nimport os, pathlib\n\n{where}\n")
    sign(copy)
    (tmp_path / "compiled").mkdir()
    verify(copy, compiled=tmp_path / "compiled")
    assert (tmp_path / "compiled" / "kernel").exists()


@pytest.mark.slow
def test_verify_notices_other_figures_and_other_pictures(copy: Path, cli: Cli) -> None:
    forge(copy, lambda figures: figures.update(latency_ms=0.01, peak_vram_gib=0.001))
    cat, dog = (copy / "evidence" / "winner" / f"{name}-0.png" for name in ("cat", "dog"))
    Image.open(dog).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(cat)
    sign(copy)
    said = cli("verify", str(copy))
    assert said.code == 1
    lines = dict(reversed(line.split(": ")[0].split()) for line in said.out.splitlines() if ": " in line)
    assert lines == {
        **{"files": "pass", "machine": "pass"},
        **dict.fromkeys(("latency_ms", "peak_vram_gib", "pictures"), "differs"),
    }
    assert "The bundle differs from its evidence." in said.out


def with_many_pictures(bundle: Path, out: Path) -> None:
    """Eight requests of one shape, more than are timed, and another seed of one; the evidence has a picture of each."""
    workload = bundle / "check" / "workload.json"
    content = json.loads(workload.read_text())
    requests = [{**content["requests"][0], "name": f"cat-{seed}", "seed": seed} for seed in range(8)]
    workload.write_text(json.dumps({**content, "requests": requests}))
    names = [*(request["name"] for request in requests), "cat-3~1"]
    script = bundle / "check" / "run.py"
    run_script(script, ["--device", "cpu", "--pictures", *names], out=out, environment={}, timeout_s=600)
    shutil.rmtree(bundle / "evidence" / "winner")
    (bundle / "evidence" / "winner").mkdir()
    with np.load(out / "pictures.npz") as made:
        assert set(names) == set(made.files)
        for name in made.files:
            save_png(torch.from_numpy(made[name])[0], bundle / "evidence" / "winner" / f"{name}-0.png")
    sign(bundle)


@pytest.mark.slow
def test_verify_makes_every_picture_of_the_evidence(copy: Path, tmp_path: Path, cli: Cli) -> None:
    with_many_pictures(copy, tmp_path / "out")
    forge(copy, lambda figures: figures.update(latency_ms=1e6, peak_vram_gib=1e3))
    said = cli("verify", str(copy))
    assert "pass  pictures: 9 of 9 pictures, the worst is bit-exact against the evidence" in said.out
    assert said.code == 0

    winner = copy / "evidence" / "winner"
    for name in ("horse-0.png", "cat-3~1-1.png"):
        shutil.copyfile(winner / "cat-3~1-0.png", winner / name)
    sign(copy)
    said = cli("verify", str(copy))
    assert "differs  pictures: 2 of the evidence's 11 could not be made: cat-3~1-1.png, horse-0.png" in said.out
    assert said.code == 1


def add_a_byte(bundle: Path) -> None:
    with (bundle / "apply.py").open("a") as file:
        file.write("\n")


def break_the_script(bundle: Path) -> None:
    (bundle / "apply.py").write_text("def apply(pipelines):\n    raise RuntimeError('the wrong\\nmodel')\n")
    sign(bundle)


def other_schema(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "schema": 99}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (add_a_byte, "{}: apply.py was changed after the export; export the bundle again"),
        (lambda b: (b / "apply.py").unlink(), "{}: apply.py is missing; export the bundle again"),
        (
            lambda b: (b / "check" / "sitecustomize.py").write_text(""),
            "{}: check/sitecustomize.py is not part of the bundle; remove it or export again",
        ),
        (lambda b: (b / MANIFEST).unlink(), "{} is not a bundle: it has no manifest.json"),
        (lambda b: (b / MANIFEST).write_text("{"), "{}/manifest.json is damaged: export the bundle again"),
        (lambda b: (b / MANIFEST).write_text("[]"), "{}/manifest.json is damaged: export the bundle again"),
        (lambda b: (b / MANIFEST).write_text('{"sha256": {}}'), "{}/manifest.json is damaged: export the bundle again"),
        (other_schema, f"{{}}/manifest.json has schema 99; this version reads {SCHEMA_VERSION}"),
        (break_the_script, "{} could not be run: RuntimeError: the wrong model"),
        (shutil.rmtree, "{} is not a bundle: it has no manifest.json"),
    ],
)
def test_verify_of_a_damaged_bundle(copy: Path, cli: Cli, change: Callable[[Path], Any], sentence: str) -> None:
    change(copy)
    assert cli("verify", str(copy)).sentence().startswith(sentence.format(copy))


def test_export_by_command_line_replaces_an_older_bundle_whole(copy: Path, launched: Launched, cli: Cli) -> None:
    said = cli("export", "tiny", "-o", str(copy), "--trial", "0", "--storage", launched.storage)
    assert said.code == 0
    assert "not confirmed" not in said.err  # the reference is what others are confirmed against
    assert said.out == f"Trial 0 (reference) is exported to {copy}\n"
    assert yaml.safe_load((copy / "configuration.yaml").read_text())["techniques"] == []
    assert [entry.name for entry in copy.parent.iterdir()] == ["copy"], "no temporary folder is left"


@pytest.mark.parametrize("manifest", ['{"name": "my web app"}', "[]", None])
def test_export_leaves_a_folder_alone_that_holds_more_than_a_bundle(
    copy: Path, launched: Launched, cli: Cli, manifest: str | None
) -> None:
    (copy / "notes.txt").write_text("precious")
    if manifest is not None:
        (copy / MANIFEST).write_text(manifest)
    before = sorted(str(file) for file in copy.rglob("*"))
    said = cli("export", "tiny", "-o", str(copy), "--storage", launched.storage)
    assert said.sentence() == f"{copy} is not empty and not an untouched bundle: choose another folder with -o"
    assert sorted(str(file) for file in copy.rglob("*")) == before


def test_export_ships_the_apply_py_that_ran_whatever_became_of_the_technique(
    tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = launched.results()
    trial = next(trial for trial in results.trials if trial.number == launched.trial(DEEPCACHE).number)
    ran = (trial.folder / "apply.py").read_text()
    monkeypatch.setattr("paretune.search_space._apply_source.inspect.getsource", lambda function: "changed since")
    assert (export(results, trial, tmp_path / "b") / "apply.py").read_text() == ran


def test_export_refuses_what_it_has_no_evidence_for(tmp_path: Path, launched: Launched, cli: Cli) -> None:
    moved = tmp_path / "moved"
    pictures = launched.trial(DEEPCACHE).folder / "pictures"
    pictures.rename(moved)
    try:
        number = str(launched.trial(DEEPCACHE).number)
        said = cli("export", "tiny", "--trial", number, "-o", str(tmp_path / "b"), "--storage", launched.storage)
        assert said.sentence().startswith("the pictures of tiny are gone from ")
    finally:
        moved.rename(pictures)


def test_export_to_where_nothing_can_be_written(launched: Launched, cli: Cli) -> None:
    said = cli("export", "tiny", "-o", "/proc/nowhere/b", "--storage", launched.storage)
    assert said.sentence().startswith("/proc/nowhere/b cannot be written (")


def test_export_leaves_a_folder_alone_that_is_no_bundle(tmp_path: Path, launched: Launched, cli: Cli) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    said = cli("export", "tiny", "-o", str(tmp_path), "--storage", launched.storage)
    assert said.sentence() == f"{tmp_path} is not empty and not an untouched bundle: choose another folder with -o"
    said = cli("export", "tiny", "-o", str(tmp_path / "thesis.tex"), "--storage", launched.storage)
    assert said.sentence() == f"{tmp_path / 'thesis.tex'} is a file: choose another folder with -o"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("thesis.tex", "precious")]


def test_export_into_an_empty_folder(tmp_path: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(launched.results(), launched.trial(DEEPCACHE), Path("."))
    assert (tmp_path / MANIFEST).is_file()
