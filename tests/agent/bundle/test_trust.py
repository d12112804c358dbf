"""What is asked before compiled code is loaded: signature and files first, then whether it was built for this place."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paretune.agent.bundle import entries_of, make_keys, trust_file
from paretune.agent.bundle.signing import read_private_key, signature_of
from paretune.agent.bundle.trust import BUILT_FOR, ArtefactError, describe, usable
from paretune.objectives.measuring import load_file
from paretune.search_space import Configuration, apply_source
from paretune.testing import tiny_sdxl

CODE = "artefacts/code/0123456789abcdef/graph.py"


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Any]:
    return {"main": tiny_sdxl()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pipelines: dict[str, Any]) -> Path:
    """A bundle as far as loading it is concerned, signed."""
    folder = tmp_path_factory.mktemp("built") / "bundle"
    (folder / CODE).parent.mkdir(parents=True)
    (folder / CODE).write_text("kernel")
    (folder / "apply.py").write_text("def apply(): ...")
    (folder / "trust.py").write_text("def usable(): ...")
    write(folder, describe(pipelines))
    make_keys(folder.parent / "ours.pem")
    make_keys(folder.parent / "theirs.pem")
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json.sig").write_bytes(signature_of(manifest, read_private_key(folder.parent / "ours.pem")))
    return folder


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "bundle"))


def write(bundle: Path, built_for: dict[str, Any]) -> None:
    (bundle / BUILT_FOR).write_text(json.dumps(built_for))
    (bundle / "manifest.json").write_text(json.dumps({"files": entries_of(bundle)}))


def test_what_was_built_here_for_these_models_is_used_without_a_word(built: Path, pipelines: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert usable(built, pipelines)
        assert usable(built, pipelines, strict=True, trusted_key=built.parent / "ours.pub")
        assert usable(built, {"main": tiny_sdxl()}), "other weights of the same model"


DIFFERENT: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "the GPU": (lambda b: b.update(device_name="NVIDIA L40S"), "the device's name is .* here, was NVIDIA L40S"),
    "its capability": (lambda b: b.update(compute_capability="8.9"), "the compute capability is .* here, was 8.9"),
    "the driver": (lambda b: b.update(driver="580.1"), "the driver is none here, was 580.1"),
    "CUDA": (lambda b: b.update(cuda="13.0"), "CUDA is .* here, was 13.0"),
    "torch": (lambda b: b["packages"].update(torch="2.0.1"), "torch is 2.* here, was 2.0.1"),
    "Triton": (lambda b: b["packages"].update(triton="3.9"), "triton is .* here, was 3.9"),
    "diffusers": (lambda b: b["packages"].update(diffusers="0.1"), "diffusers is .* here, was 0.1"),
    "a package of the configuration": (lambda b: b["packages"].update(nothing="1"), "nothing is none here, was 1"),
    "Python": (lambda b: b.update(python="3.9"), "Python is 3.* here, was 3.9"),
    "the model": (
        lambda b: b["models"]["main.unet"]["configuration"].update(layers_per_block=9),
        "layers_per_block of main.unet is 2 here, was 9",
    ),
    "its number format": (
        lambda b: b["models"]["main.vae"].update(dtypes=["float16"]),
        "the number format of main.vae is float32 here, was float16",
    ),
    "a module": (lambda b: b["models"].pop("main.unet"), "there is a main.unet here, was no"),
    "another schema": (lambda b: b.update(schema=9), "schema 9"),
}


@pytest.mark.parametrize(("change", "words"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_was_built_for_something_else_is_named_and_not_used(
    change: Callable[[dict[str, Any]], Any], words: str, bundle: Path, pipelines: dict[str, Any]
) -> None:
    built_for = json.loads((bundle / BUILT_FOR).read_text())
    change(built_for)
    write(bundle, built_for)
    with pytest.warns(UserWarning, match=words) as said:
        assert not usable(bundle, pipelines)
    assert len(said) == 1
    with pytest.raises(ArtefactError, match=words):
        usable(bundle, pipelines, strict=True)


def test_every_difference_stands_in_the_one_warning(bundle: Path) -> None:
    half = {"main": tiny_sdxl()}
    half["main"].to(torch.float16)
    with pytest.warns(UserWarning, match="it is not used, and this process compiles") as said:
        assert not usable(bundle, half)
    assert [
        name for name in ("unet", "vae", "text_encoder") if f"main.{name} is float16" not in str(said[0].message)
    ] == []


def test_apply_asks_it_and_compiles_or_refuses(bundle: Path, built: Path) -> None:
    """The apply.py of a bundle, whose code here is none: it would be an error to load it."""
    apply_py, trust_py = bundle / "apply.py", bundle / "trust.py"
    apply_py.write_text(apply_source(Configuration.of({"torch_compile": {}})))
    shutil.copyfile(trust_file(), trust_py)
    pipelines = {"main": tiny_sdxl()}
    write(bundle, {**describe(pipelines), "python": "3.9"})
    applied, folder = load_file(apply_py, "apply"), bundle / "artefacts"
    with pytest.raises(RuntimeError, match=r"Python is 3\.\d+ here, was 3\.9"):
        applied.apply(pipelines, artefacts=folder, strict=True)
    with pytest.raises(RuntimeError, match="was not signed with"):
        applied.apply(pipelines, artefacts=folder, trusted_key=built.parent / "ours.pub")
    with pytest.raises(RuntimeError, match="give artefacts too"):
        applied.apply({"main": tiny_sdxl()}, trusted_key=built.parent / "ours.pub")
    with pytest.raises(RuntimeError, match="what is being built is not signed"):
        applied.apply(pipelines, artefacts=folder, trusted_key=built.parent / "ours.pub", on_miss="build")
    other, link = bundle / "other", built.parent / "linked" / "artefacts"
    link.parent.mkdir()
    link.symlink_to(folder)
    shutil.copytree(folder, other)
    for unchecked in (other, link):
        with pytest.raises(RuntimeError, match="no other is checked before it is loaded"):
            applied.apply(pipelines, artefacts=unchecked)
    with pytest.warns(UserWarning, match="was built for something else"):
        applied.apply(pipelines, artefacts=folder)
    assert pipelines["main"].unet.compiled_parts["forward"]["calls"] == 0, "compiled as without artefacts"
    trust_py.unlink()
    with pytest.raises(RuntimeError, match=r"only after trust\.py has checked them"):
        applied.apply({"main": tiny_sdxl()}, artefacts=folder)


def other_schema(bundle: Path) -> None:
    write(bundle, {"schema": 1})


def append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def link_elsewhere(file: Path) -> None:
    """What it leads to may change between the check and the use."""
    file.rename(file.parents[1] / file.name)
    file.symlink_to(f"../{file.name}")


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped byte": (lambda b: (b / CODE).write_text("kernal"), f"{CODE} was changed after the export"),
    "a longer file": (lambda b: append(b / CODE, " and more"), f"{CODE} was changed after the export"),
    "a shorter file": (lambda b: (b / CODE).write_text("kern"), f"{CODE} was changed after the export"),
    "another apply.py": (lambda b: (b / "apply.py").write_text("import os"), "apply.py was changed"),
    "a missing file": (lambda b: (b / CODE).unlink(), f"{CODE} is missing"),
    "an added file": (lambda b: (b / "artefacts" / "x.so").touch(), "artefacts/x.so is not part of the bundle"),
    "byte code": (lambda b: (b / CODE).with_suffix(".pyc").touch(), "is not part of the bundle"),
    "a link": (lambda b: (b / "artefacts" / "x").symlink_to("/etc/passwd"), "x is neither a file nor a folder"),
    "a link to apply.py": (lambda b: link_elsewhere(b / "apply.py"), "apply.py is a link"),
    "a link to a manifest": (lambda b: link_elsewhere(b / "manifest.json"), "manifest.json cannot be read"),
    "no artefacts": (lambda b: shutil.rmtree(b / "artefacts"), "artefacts cannot be read"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "manifest.json cannot be read"),
    "half a manifest": (lambda b: (b / "manifest.json").write_text("{"), "is damaged"),
    "a manifest of nothing": (lambda b: (b / "manifest.json").write_text("{}"), "is damaged"),
    "an empty description": (other_schema, "is damaged"),
}


@pytest.mark.parametrize(("change", "words"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_not_as_it_was_exported_is_never_loaded(
    change: Callable[[Path], Any], words: str, bundle: Path, pipelines: dict[str, Any]
) -> None:
    change(bundle)
    with pytest.raises(ArtefactError, match=words):
        usable(bundle, pipelines)


def test_a_trusted_key_asks_for_its_signature_before_anything_else(
    bundle: Path, pipelines: dict[str, Any], built: Path
) -> None:
    with pytest.raises(ArtefactError, match="was not signed with"):
        usable(bundle, pipelines, trusted_key=built.parent / "theirs.pub")
    (bundle / CODE).write_text("forged")
    write(bundle, describe(pipelines))
    assert usable(bundle, pipelines), "the manifest alone finds damage, not forgery"
    with pytest.raises(ArtefactError, match="was not signed with"):
        usable(bundle, pipelines, trusted_key=built.parent / "ours.pub")
    (bundle / "manifest.json.sig").unlink()
    with pytest.raises(ArtefactError, match="is not signed"):
        usable(bundle, pipelines, trusted_key=built.parent / "ours.pub")
