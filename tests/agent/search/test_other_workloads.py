"""Studies of a product's own Python file, and of random weights, from launch to bundle."""

import json
import shutil
from pathlib import Path

import pytest
from paretune.agent.bundle import MANIFEST, entries_of, export, files_of
from paretune.agent.results import Results
from paretune.agent.search import launch
from paretune.objectives.verdict import Verdict
from paretune.search_space import Configuration
from paretune.studies import UserError, read_study
from support.launched import Cli
from support.launching import tiny_study, write_study

SPACE = {"techniques": {"channels_last": {}, "deepcache": {}}, "presets": [[{"channels_last": {}}]]}
PRODUCT = """
import torch
from ours.settings import STRENGTH
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

def load(device):
    main = StableDiffusionXLPipeline.from_pretrained({model!r}).to(device)
    second = StableDiffusionXLImg2ImgPipeline(**main.components)
    for pipeline in (main, second):
        pipeline.set_progress_bar_config(disable=True)
    return {{"main": main, "second": second}}

def run(pipelines, request):
    def generator():
        return torch.Generator("cpu").manual_seed(request.seed)

    settings = dict(num_inference_steps=request.steps, guidance_scale=request.guidance, output_type="pt")
    first = pipelines["main"](request.prompt, width=64, height=64, generator=generator(), **settings).images
    return pipelines["second"](request.prompt, image=first, strength=STRENGTH, generator=generator(), **settings).images
"""


@pytest.fixture(scope="module")
def random_weights(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("random")
    config = Path(shutil.copytree(tiny_model, folder / "config", ignore=shutil.ignore_patterns("*.safetensors")))
    for name in ("text_encoder", "text_encoder_2"):
        file = config / name / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 256}))
    content = tiny_study(tiny_model, space=SPACE, limits={"verdict": "bit-exact"})
    content["workload"]["pipelines"]["main"].update(weights="random", config="config")
    content["quality"]["pictures"]["screen"] = 8
    study = read_study(str(write_study(folder / "tiny.yaml", content)))
    return launch(study, storage=f"sqlite:///{folder}/paretune.db", trials=2)


def test_pictures_of_random_weights_are_never_judged(random_weights: Results) -> None:
    assert random_weights.study.optimised == ["latency_ms", "peak_vram_gib"]
    for trial in random_weights.complete:
        assert trial.verdict is Verdict.NOT_ASSESSED
        assert trial.measurements["drift"] is None
        assert trial.acceptable, "a limit on the verdict cannot be broken by what is not assessed"
        assert len(trial.pictures()) == 3, "the requests as written; other seeds would be made for nobody"
    with pytest.raises(UserError, match="was not assessed"):
        random_weights.best(verdict=Verdict.BIT_EXACT)
    with pytest.raises(UserError, match="was not assessed"):
        random_weights.best(by="drift")


def test_every_text_says_that_quality_was_not_assessed(random_weights: Results, tmp_path: Path, cli: Cli) -> None:
    storage = f"sqlite:///{Path(random_weights.record.files).parent.parent}/paretune.db"
    assert "not assessed (random weights)" in cli("best", "tiny", "--storage", storage).out
    assert "drift" not in json.loads(cli("best", "tiny", "--json", "--storage", storage).out)["figures"]
    bundle = export(random_weights, random_weights.trials[1], tmp_path / "bundle")
    readme = (bundle / "README.md").read_text()
    assert "Pictures: **not assessed (random weights)**." in readme
    assert "Run the study again with the real ones before you deploy this." in readme


@pytest.mark.slow
def test_a_products_own_file_from_launch_to_bundle(tiny_model: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "settings.py").write_text("STRENGTH = 0.6\n")
    (tmp_path / "product.py").write_text(PRODUCT.format(model=str(tiny_model)))
    request = {"name": "cat", "prompt": "a cat", "width_px": 64, "height_px": 64, "steps": 4, "guidance": 4.0}
    content = tiny_study(tiny_model, name="own", space=SPACE, workload={"python": "product.py", "requests": [request]})
    file, storage = write_study(tmp_path / "own.yaml", content), f"sqlite:///{tmp_path}/paretune.db"
    results = launch(read_study(str(file)), storage=storage, trials=2)
    assert [trial.configuration for trial in results.complete] == [
        Configuration(),
        Configuration.of({"channels_last": {}}),
    ]
    assert set(results.record.pipelines) == {"main", "second"}
    bundle = export(results, results.trials[1], tmp_path / "b")
    described = json.loads((bundle / "check" / "workload.json").read_text())
    assert described["python"] == "own/product.py"
    assert set(described["sha256"]) == {"product.py", "ours/settings.py"}
    assert not [name for name in files_of(bundle) if str(tmp_path).encode() in (bundle / name).read_bytes()]
    assert "`check/own/ours/settings.py` is a copy of a file that it imports" in (bundle / "README.md").read_text()
    for originals in ("there", "gone"):
        moved = tmp_path / "elsewhere" / originals
        shutil.copytree(bundle, moved)
        evidence = json.loads((moved / "evidence" / "measurements.json").read_text())
        evidence["trial"]["figures"].update(latency_ms=1e6, peak_vram_gib=1e3)
        (moved / "evidence" / "measurements.json").write_text(json.dumps(evidence))
        manifest = json.loads((moved / MANIFEST).read_text())
        (moved / MANIFEST).write_text(json.dumps({**manifest, "files": entries_of(moved)}))
        if originals == "gone":
            (tmp_path / "product.py").unlink()
            (tmp_path / "ours").rename(tmp_path / "theirs")
        said = cli("verify", str(moved))
        assert said.code == 0, (said.out, said.err)
        assert not list(moved.rglob("__pycache__"))
    (tmp_path / "theirs").rename(tmp_path / "ours")

    # What the file does is part of what was measured.
    (tmp_path / "product.py").write_text(PRODUCT.format(model=str(tiny_model)).replace("STRENGTH, g", "0.8, g"))
    with pytest.raises(UserError, match="exists with another workload"):
        launch(read_study(str(file)), storage=storage, trials=3)
