"""Export one configuration as a bundle: what production needs, and the evidence for it."""

import json
import shutil
from pathlib import Path
from typing import Any

import jinja2

from ...search_space import Loss, technique
from ...studies import UserError, utc_now
from ..results.doubts import confirmation_dict, confirmation_of, doubts, is_confirmed
from ..results.figures import cold_start_estimate_s, cold_start_measured, milliseconds, quality, speed_up, spread
from ..results.results import Results, Trial
from ..search.continuation import same_workload
from ..trial.files import sha256, whole_folder, write_json, write_text
from ..trial.folder import write_scripts

SEARCH_ONLY = {"optuna", "torchao"}
"""What a fingerprint knows and a configuration needs only where one of its techniques says so."""
SCHEMA_VERSION = 2
"""Of the manifest and of evidence/measurements.json; since 2, both say whether the trial was confirmed."""
MANIFEST = "manifest.json"


def export(results: Results, trial: Trial, folder: Path) -> Path:
    """Write the bundle of `trial` to `folder`, whole or not at all. Returns the folder.

    Raises UserError when the folder holds something that is not a bundle.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder with -o")
    if folder.exists() and any(folder.iterdir()) and not _is_bundle(folder):
        raise UserError(f"{folder} is not empty and not an untouched bundle: choose another folder with -o")
    if not same_workload(results.record, results.study):
        raise UserError(
            f"the Python files of study {results.name} have changed since it was measured: "
            "restore them, or launch the study again under another --name"
        )
    if not trial.pictures() or not results.reference.pictures():
        raise UserError(
            f"the pictures of {results.name} are gone from {results.record.files}: a bundle needs its evidence"
        )
    try:
        return _write_bundle(results, trial, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another folder with -o") from None


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds a bundle and nothing else: only then may it be replaced."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return "configuration_key" in manifest and set(files_of(folder)) <= set(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_bundle(results: Results, trial: Trial, folder: Path) -> Path:
    with whole_folder(folder.resolve()) as draft:
        write_text(draft / "configuration.yaml", trial.configuration.to_yaml())
        write_text(draft / "apply.py", trial.apply_py)
        write_text(draft / "environment.txt", environment(results, trial))
        write_scripts(draft / "check", results.study.workload_description())
        _write_evidence(draft / "evidence", results, trial)
        write_text(draft / "README.md", bundle_readme(results, trial))
        manifest = {
            "schema": SCHEMA_VERSION,
            "created_at": utc_now(),
            "study": results.name,
            "trial": trial.number,
            "configuration_key": trial.configuration.key,
            "confirmed": is_confirmed(results, trial),
            "fingerprint": results.fingerprint.to_dict(),
            "sha256": {name: sha256(draft / name) for name in files_of(draft)},
        }
        write_json(draft / MANIFEST, manifest)
    return folder


def files_of(folder: Path) -> list[str]:
    """Every file of a bundle but its manifest, relative, sorted. Byte code and pictures of a check are not part."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(str(file) for file in files if str(file) != MANIFEST and "__pycache__" not in file.parts)


def environment(results: Results, trial: Trial) -> str:
    """environment.txt: exact versions of what `apply.py` and the pipelines need, in the form that pip reads, and the
    machine as comments.
    """
    needed = {package for step in trial.configuration.steps for package in technique(step.technique).packages}
    machine = results.fingerprint
    head = [f"# measured on {machine.device_name}, Python {machine.python}, {machine.platform}"]
    if machine.driver:
        head.append(f"# driver {machine.driver}, CUDA {machine.cuda}, compute capability {machine.compute_capability}")
    pins = [f"{name}=={version}" for name, version in sorted(machine.packages.items()) if version is not None]
    pins = [pin for pin in pins if pin.partition("==")[0] not in SEARCH_ONLY - needed]
    return "\n".join([*head, *pins]) + "\n"


def bundle_readme(results: Results, trial: Trial) -> str:
    """README.md, written for the person who deploys the bundle."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment_ = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    compiled = results.torch_compile
    return environment_.get_template("bundle_readme.md.j2").render(
        results=results,
        trial=trial,
        reference=results.reference,
        compiled=compiled if compiled is not None and compiled.complete else None,
        steps=[(step, technique(step.technique)) for step in trial.configuration.steps],
        milliseconds=milliseconds,
        spread=spread,
        quality=quality(results, trial),
        speed_up=speed_up,
        cold_start_estimate_s=cold_start_estimate_s,
        cold_start_measured=cold_start_measured,
        doubts=doubts(results, trial),
        confirmation=confirmation_of(results, trial),
        approximate=trial.configuration.loss is Loss.APPROXIMATE,
        requests=results.study.workload.requests,
    )


def _write_evidence(folder: Path, results: Results, trial: Trial) -> None:
    folder.mkdir()
    measured: dict[str, Any] = {"schema": SCHEMA_VERSION, "study": results.name}
    measured["measurement"] = results.study.measurement.model_dump()
    measured["fingerprint"] = results.fingerprint.to_dict()
    measured["noise_floor"] = results.record.noise_floor
    measured["confirmed"] = is_confirmed(results, trial)
    measured["confirmation"] = _confirmation(results, trial)
    measured["doubts"] = doubts(results, trial)
    measured["trial"] = _evidence(trial)
    measured["reference"] = _evidence(results.reference)
    if results.torch_compile is not None and results.torch_compile.complete:
        measured["torch_compile"] = _evidence(results.torch_compile)
    write_json(folder / "measurements.json", measured)
    for name, source in (("reference", results.reference), ("winner", trial)):
        (folder / name).mkdir()
        for picture in source.pictures():
            shutil.copyfile(picture, folder / name / picture.name)


def _confirmation(results: Results, trial: Trial) -> dict[str, Any] | None:
    """What confirming found, with the latency in ms of every process, block by block; None without blocks."""
    against = confirmation_dict(results, trial)
    if against is None:
        return None
    named = {"trial": trial, "reference": results.reference, "torch_compile": results.torch_compile}
    latencies = {
        name: results.blocks[one.number]
        for name, one in named.items()
        if one is not None and one.number in results.blocks and (name == "trial" or name in against)
    }
    blocks = [
        {"block": block, **{name: by_block[block] for name, by_block in latencies.items() if block in by_block}}
        for block in sorted({block for by_block in latencies.values() for block in by_block})
    ]
    return {"against": against, "blocks": blocks}


def _evidence(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "configuration": trial.configuration.to_dict(),
        "measurements": dict(trial.measurements),
        "phases_s": dict(trial.phases_s),
    }
