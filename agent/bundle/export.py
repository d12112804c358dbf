"""Export one configuration as a bundle: what production needs, and the evidence for it."""

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from packaging.requirements import Requirement

from ...objectives.figures import FIGURE, FIGURES
from ...objectives.fingerprint import Fingerprint
from ...search_space import known_techniques, technique
from ...studies import UserError, fault_sentence, pack_workload, same_workload, utc_now
from ..results import Results, Trial, ablation_of, cold_start_words, evidence_words, floor_note
from ..trial import whole_folder, write_json, write_scripts, write_text
from .cold_table import cold_rows
from .contents import check_picture, read_whole
from .manifest import SCHEMA_VERSION, entries_of, is_bundle
from .room import processes_beside
from .signing import read_private_key, signature_of, trust_file
from .trust import ARTEFACTS, MANIFEST, SIGNATURE
from .verify import UNKNOWN_FLOOR
from .ways import NOT_ASKED_FOR, NOTHING_COMPILED, Artefacts, OnStep, Wanted, build_ways

PYTORCH_BUILD = re.compile(r"\+(cpu|cu\d+|rocm[\d.]+|xpu)$")


def export(
    results: Results,
    trial: Trial,
    folder: Path,
    *,
    unconfirmed: bool = False,
    sign: Path | None = None,
    artefacts: bool = True,
    on_step: OnStep = lambda done, total, text: None,
    on_built: Callable[[Artefacts], None] = lambda built: None,
) -> Path:
    """Write the bundle of `trial` to `folder`, whole or not at all. Returns the folder.

    unconfirmed: also where nothing is known of its gain, because the reference was never again where it had been.
    sign: the file of a private key (signing.py), which signs the manifest.
    artefacts: whether compiled code goes into it, where the configuration compiles: it is built and measured here, in
    fresh processes, which takes a few times as long as compiling (ways.TIMES_COMPILING). Interrupted and called again,
    it goes on. on_built hears what came of it.
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
            f"the pictures of {results.name} are gone from {results.record.files}, or may not be read: "
            "a bundle needs its evidence"
        )
    key = None if sign is None else read_private_key(sign)
    _check_evidence(results, trial)
    try:
        bundle, built = _write_bundle(results, trial, folder, key, artefacts, on_step)
    except OSError as error:
        # What cannot be read of the study is not the folder's fault.
        why = fault_sentence(error) or error.strerror
        raise UserError(f"{folder} cannot be written ({why}): mend that, or choose another folder with -o") from None
    on_built(built)
    return bundle


def _check_evidence(results: Results, trial: Trial) -> None:
    """As `verify` will: a bundle that it refuses is of no use. Raises UserError."""
    mend = "export another trial, or launch the study again under another --name"
    sizes: dict[str, tuple[int, int]] = {}
    for picture in (*results.reference.pictures(), *trial.pictures()):
        try:
            size = check_picture(read_whole(picture), picture)
        except UserError:
            raise UserError(
                f"{picture} is not there, or no picture any more, and a bundle needs it as evidence: {mend}"
            ) from None
        expected = sizes.setdefault(picture.name, size)
        if size != expected:
            raise UserError(
                f"{picture} has {size[0]} x {size[1]} px, and the reference's {expected[0]} x {expected[1]}: it is not "
                f"the picture that was judged; {mend}"
            )


def _write_bundle(
    results: Results, trial: Trial, folder: Path, key: Any, artefacts: bool, on_step: OnStep
) -> tuple[Path, Artefacts]:
    packed = pack_workload(results.study)
    work = folder.resolve().with_name(f".{folder.resolve().name}.building")
    with whole_folder(folder.resolve()) as draft:
        write_text(draft / "configuration.yaml", trial.configuration.to_yaml())
        write_text(draft / "apply.py", trial.timing.apply_py)
        write_text(draft / "environment.txt", environment(results, trial))
        write_scripts(draft / "check", packed.description)
        for name, source in packed.files.items():
            (draft / "check" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, draft / "check" / name)
        why_not = why_no_artefacts(results, trial) if artefacts else NOT_ASKED_FOR
        if why_not is None:
            packed.remember()  # the processes that build load what is not in the bundle
            ways = build_ways(draft, work, _wanted(results, trial), on_step)
        else:
            ways = []
        built = Artefacts(why_not, tuple(ways))
        _write_evidence(draft / "evidence", results, trial, built)
        if (draft / ARTEFACTS).is_dir():
            shutil.copyfile(trust_file(), draft / "trust.py")
        write_text(draft / "README.md", bundle_readme(trial, built, signed=key is not None))
        manifest = {
            "schema": SCHEMA_VERSION,
            "created_at": utc_now(),
            "study": results.name,
            "trial": trial.number,
            "configuration_key": trial.configuration.key,
            "confirmed": trial.confirmed,
            "figures": {**_figures(trial), **_with_artefacts(built)},
            "fingerprint": results.fingerprint.to_dict(),
            "files": entries_of(draft),
        }
        write_json(draft / MANIFEST, manifest)
        if key is not None:
            (draft / SIGNATURE).write_bytes(signature_of((draft / MANIFEST).read_bytes(), key))
    packed.remember()
    shutil.rmtree(work, ignore_errors=True)
    return folder, built


def why_no_artefacts(results: Results, trial: Trial) -> str | None:
    """Why no compiled code can be built for a trial's bundle here; None when it can."""
    if not any(technique(step.technique).artefacts for step in trial.configuration.steps):
        return NOTHING_COMPILED
    if "def open_artefacts(" not in trial.timing.apply_py:
        return "the trial was measured before there were artefacts: measure it again"
    try:
        here = Fingerprint.current(results.fingerprint.device_kind)
    except RuntimeError as error:
        return str(error)
    differences = results.fingerprint.differences(here)
    return f"this is not the machine of the evidence ({'; '.join(differences)})" if differences else None


def _wanted(results: Results, trial: Trial) -> Wanted:
    """What the artefacts are measured against."""
    steps = trial.configuration.steps
    needed = {Requirement(p).name for step in steps for p in technique(step.technique).packages_with(step.parameters)}
    measurement = results.study.measurement
    return Wanted(
        device=results.fingerprint.device_kind,
        packages=sorted(needed),
        calls=measurement.calls,
        warm_up_calls=measurement.warm_up_calls,
        latency_ms=trial.figure("latency_ms"),
        floor=UNKNOWN_FLOOR if results.floor is None else results.floor.of_figure("latency_ms"),
        pictures=trial.pictures(),
        verdict=trial.verdict,
        processes=processes_beside(results.fingerprint.device_kind, trial.figure("peak_vram_gib")),
    )


def environment(results: Results, trial: Trial) -> str:
    """environment.txt: exact versions of what `apply.py` and the pipelines need, in the form that pip reads, with
    the public index that has these builds, and the machine as comments.
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
    # PyPI has no version with a build's suffix; PyTorch's own index has one for each.
    builds = sorted({found.group(1) for pin in pins if (found := PYTORCH_BUILD.search(pin))})
    indexes = [f"--extra-index-url https://download.pytorch.org/whl/{build}" for build in builds]
    return "\n".join([*head, *indexes, *pins]) + "\n"


def bundle_readme(trial: Trial, artefacts: Artefacts | None = None, *, signed: bool = False) -> str:
    """README.md; its figures are the ones that every report shows."""
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    results = trial.results
    compiled, top = results.torch_compile, results.torch_compile_best
    packed = pack_workload(results.study)
    named = {
        "reference": results.reference,
        "torch.compile": compiled,
        "torch.compile at its best": None if top in (compiled, trial) else top,
        "this bundle": trial,
    }
    return environment.get_template("bundle_readme.md.j2").render(
        results=results,
        trial=trial,
        named={name: one for name, one in named.items() if one is not None and one.complete},
        compiled_best=named.get("torch.compile at its best"),
        busy={name: one.gpu_busy_share for name, one in named.items() if one is not None},
        compiled=compiled if compiled is not None and compiled.complete else None,
        steps=[(step, technique(step.technique)) for step in trial.configuration.steps],
        cold_start_words=cold_start_words,
        cold=trial.cold_start_measured,
        ablation=ablation_of(results, trial),
        seconds=FIGURE["cold_start_s"].text,
        evidence=evidence_words(trial),
        floor_note=floor_note(results),
        doubts=trial.doubts(),
        approximate=not trial.configuration.loss.is_none,
        requests=results.study.workload.requests,
        signed=signed,
        artefacts=artefacts or Artefacts(),
        kept=None if artefacts is None else artefacts.kept,
        cold_rows=cold_rows(results, trial, () if artefacts is None else artefacts.ways),
        own=[name for name in packed.files if name.endswith(".py")],
        models={name: spec for name, spec in packed.description.get("pipelines", {}).items() if spec.get("digest")},
    )


def _write_evidence(folder: Path, results: Results, trial: Trial, artefacts: Artefacts) -> None:
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
    for name, one in (("torch_compile", results.torch_compile), ("torch_compile_best", results.torch_compile_best)):
        if one is not None and one.complete:
            measured[name] = _evidence(one)
    measured["artefacts"] = {**asdict(artefacts), "times_compiling": artefacts.times_compiling}
    write_json(folder / "measurements.json", measured)
    if (ablation := ablation_of(results, trial)) is not None:
        write_json(folder / "ablation.json", ablation.to_dict())
    for name, source in (("reference", results.reference), ("winner", trial)):
        (folder / name).mkdir()
        for picture in source.pictures():
            shutil.copyfile(picture, folder / name / picture.name)


def _confirmation(results: Results, trial: Trial) -> dict[str, Any] | None:
    """What confirming found, with the latency in ms of every process, block by block; None without blocks."""
    if trial.confirmation is None:
        return None
    against = trial.confirmation.to_dict()
    named = {
        "trial": trial,
        "reference": results.reference,
        "torch_compile": results.torch_compile,
        "torch_compile_best": results.torch_compile_best,
    }
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


def _with_artefacts(built: Artefacts) -> dict[str, float]:
    """The figures of the bundle that are not those of the trial: a worker loads what the trial compiled."""
    kept = built.kept
    return {} if kept is None or kept.cold_start_s is None else {"cold_start_s": kept.cold_start_s}


def _evidence(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "configuration": trial.configuration.to_dict(),
        "figures": _figures(trial),
        "measurements": trial.measurements,
        "cold_start": trial.cold_start_measured,
        "phases_s": dict(trial.timing.phases_s),
    }
