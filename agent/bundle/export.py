"""Export one configuration as a bundle: what production needs, and the evidence for it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from packaging.requirements import Requirement

from ...objectives.figures import FIGURE, FIGURES
from ...search_space import known_techniques, technique
from ...studies import UserError, pack_workload, same_workload, utc_now
from ..results import Results, Trial, cold_start_words, evidence_words, floor_note
from ..trial import whole_folder, write_json, write_scripts, write_text
from .manifest import MANIFEST, SCHEMA_VERSION, entries_of, is_bundle


def export(
    results: Results,
    trial: Trial,
    folder: Path,
    *,
    unconfirmed: bool = False,
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Path:
    """Write the bundle of `trial` to `folder`, whole or not at all. Returns the folder.

    on_step: how far it is: steps done, of how many, and what is being done.
    unconfirmed: also where nothing is known of its gain, because the reference was never again where it had been.
    Raises UserError in that case without it, and when the folder holds something that is not a bundle.
    """
    if not (trial.exportable or unconfirmed):
        raise UserError(
            f"trial {trial.number} of {results.name} is unconfirmed, and the machine changed too much for any "
            "comparison: launch the study again under another --name, or export it as it is with --unconfirmed"
        )
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file: choose another folder with -o")
        if folder.exists() and any(folder.iterdir()) and not is_bundle(folder):
            raise UserError(f"{folder} is not empty and not an untouched bundle: choose another folder with -o")
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise UserError(f"{folder} cannot be written ({reason}): choose another folder with -o") from None
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
        return _write_bundle(results, trial, folder, on_step)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): choose another folder with -o") from None


def _write_bundle(results: Results, trial: Trial, folder: Path, on_step: Callable[[int, int, str], None]) -> Path:
    total = len(trial.pictures()) + len(results.reference.pictures()) + 2
    on_step(0, total, "packing the workload")
    packed = pack_workload(results.study)
    with whole_folder(folder.resolve()) as draft:
        write_text(draft / "configuration.yaml", trial.configuration.to_yaml())
        write_text(draft / "apply.py", trial.timing.apply_py)
        write_text(draft / "environment.txt", environment(results, trial))
        write_scripts(draft / "check", packed.description)
        for name, source in packed.files.items():
            (draft / "check" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, draft / "check" / name)
        _write_evidence(draft / "evidence", results, trial, lambda done: on_step(done, total, "copying the evidence"))
        write_text(draft / "README.md", bundle_readme(trial))
        on_step(total - 1, total, "writing the manifest")
        manifest = {
            "schema": SCHEMA_VERSION,
            "created_at": utc_now(),
            "study": results.name,
            "trial": trial.number,
            "configuration_key": trial.configuration.key,
            "confirmed": trial.confirmed,
            "figures": _figures(trial),
            "fingerprint": results.fingerprint.to_dict(),
            "files": entries_of(draft),
        }
        write_json(draft / MANIFEST, manifest)
    packed.remember()
    return folder


def environment(results: Results, trial: Trial) -> str:
    """environment.txt: exact versions of what `apply.py` and the pipelines need, in the form that pip reads, and the
    machine as comments.
    """
    steps = trial.configuration.steps
    needed = {Requirement(p).name for step in steps for p in technique(step.technique).packages_with(step.parameters)}
    machine = results.fingerprint
    head = [f"# measured on {machine.device_name}, Python {machine.python}, {machine.platform}"]
    if machine.driver:
        head.append(f"# driver {machine.driver}, CUDA {machine.cuda}, compute capability {machine.compute_capability}")
    pins = [f"{name}=={version}" for name, version in sorted(machine.packages.items()) if version is not None]
    optional = {Requirement(package).name for known in known_techniques() for package in known.all_packages()}
    not_needed = {"optuna", *optional} - needed  # what the machine has for the search, or for other configurations
    pins = [pin for pin in pins if pin.partition("==")[0] not in not_needed]
    return "\n".join([*head, *pins]) + "\n"


def bundle_readme(trial: Trial) -> str:
    """README.md; its figures are the ones that every report shows."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    results = trial.results
    compiled = results.torch_compile
    packed = pack_workload(results.study)
    named = {"reference": results.reference, "torch.compile": compiled, "this bundle": trial}
    return environment.get_template("bundle_readme.md.j2").render(
        results=results,
        trial=trial,
        named={name: one for name, one in named.items() if one is not None and one.complete},
        compiled=compiled if compiled is not None and compiled.complete else None,
        steps=[(step, technique(step.technique)) for step in trial.configuration.steps],
        cold_start_words=cold_start_words,
        cold=trial.cold_start_measured,
        seconds=FIGURE["cold_start_s"].text,
        evidence=evidence_words(trial),
        floor_note=floor_note(results),
        doubts=trial.doubts(),
        approximate=not trial.configuration.loss.is_none,
        requests=results.study.workload.requests,
        own=[name for name in packed.files if name.endswith(".py")],
        models={name: spec for name, spec in packed.description.get("pipelines", {}).items() if spec.get("digest")},
    )


def _write_evidence(folder: Path, results: Results, trial: Trial, on_copied: Callable[[int], None]) -> None:
    folder.mkdir()
    measured: dict[str, Any] = {"schema": SCHEMA_VERSION, "study": results.name}
    measured["measurement"] = results.study.measurement.model_dump()
    measured["fingerprint"] = results.fingerprint.to_dict()
    measured["noise_floor"] = None if results.floor is None else results.floor.to_dict()
    measured["confirmed"] = trial.confirmed
    measured["confirmation"] = _confirmation(results, trial)
    measured["doubts"] = [str(doubt) for doubt in trial.doubts()]
    measured["trial"] = _evidence(trial)
    measured["reference"] = _evidence(results.reference)
    if results.torch_compile is not None and results.torch_compile.complete:
        measured["torch_compile"] = _evidence(results.torch_compile)
    write_json(folder / "measurements.json", measured)
    copied = 0
    for name, source in (("reference", results.reference), ("winner", trial)):
        (folder / name).mkdir()
        for picture in source.pictures():
            copied += 1
            on_copied(copied)
            shutil.copyfile(picture, folder / name / picture.name)


def _confirmation(results: Results, trial: Trial) -> dict[str, Any] | None:
    """What confirming found, with the latency in ms of every process, block by block; None without blocks."""
    if trial.confirmation is None:
        return None
    against = trial.confirmation.to_dict()
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


def _figures(trial: Trial) -> dict[str, float]:
    """The one estimate of each figure that is known, as every report shows it."""
    known = {figure.name: trial.known_figure(figure.name) for figure in FIGURES}
    return {name: value for name, value in known.items() if value is not None}


def _evidence(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "configuration": trial.configuration.to_dict(),
        "figures": _figures(trial),
        "measurements": trial.measurements,
        "cold_start": trial.cold_start_measured,
        "phases_s": dict(trial.timing.phases_s),
    }
