"""Verify a bundle: nothing changed, and it still does what its evidence says, in a process without paretune."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..objectives.fingerprint import Fingerprint
from ..objectives.noise_floor import NoiseFloor
from ..objectives.verdict import Verdict
from ..studies import UserError
from ._files import sha256
from ._runner import NARROWEST_TARGET
from .cold_start import command
from .export import MANIFEST, SCHEMA_VERSION, files_of

OTHER_DAY = 0.05
"""Relative: beyond the noise floor, which was measured within one study, machines differ so much from day to day."""
UNKNOWN_FLOOR = 0.15
"""For a bundle of a study whose noise floor was not measured."""
MEMORY_SLACK_GIB = 0.1
"""Beside the relative tolerance: what libraries load once, whatever the model's size, moves between processes."""
PROCESSES = 3
"""One process in twenty is outside the noise floor by definition: a slow one is measured again, at most so often."""
TIMEOUT_S = 3600


@dataclass(frozen=True)
class Check:
    """One thing that was compared."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Verification:
    """What a fresh process found."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing differs."""
        return all(check.passed for check in self.checks)


def verify(folder: Path, *, on_step: Callable[[str], None] = lambda text: None) -> Verification:
    """Check every file, run the bundle in a fresh process, and compare with the evidence.

    Raises UserError when the folder is no bundle, a file was changed, or the process could not run it.
    """
    on_step("checking the files")
    manifest = read_manifest(folder)
    evidence = json.loads((folder / "evidence" / "measurements.json").read_text())
    with tempfile.TemporaryDirectory(prefix="paretune-verify-") as scratch:
        on_step("running the bundle in a fresh process")
        device = str(manifest["fingerprint"]["device_kind"])
        expected = evidence["trial"]["measurements"]
        floor = _floor(evidence)
        for attempt in range(PROCESSES):
            measured, pictures = _run(folder, Path(scratch), device, evidence["measurement"], floor)
            latency = _compare_latency(expected, measured, floor, attempt + 1)
            if latency.passed:
                break
            on_step("slower than in the evidence: measuring again in another process")
        on_step("comparing with the evidence")
        checks = [
            Check("files", True, f"{len(manifest['sha256'])} files are as they were exported"),
            _compare_machine(Fingerprint.from_dict(manifest["fingerprint"])),
            latency,
            _compare_memory(expected, measured, floor),
            _compare_pictures(folder / "evidence" / "winner", pictures, expected),
        ]
    return Verification(tuple(checks))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, after checking every file against it. Raises UserError."""
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{folder} is not a bundle: it has no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text())
        expected: Mapping[str, str] = dict(manifest["sha256"])
        Fingerprint.from_dict(manifest["fingerprint"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged: export the bundle again") from None
    if manifest.get("schema") != SCHEMA_VERSION:
        raise UserError(f"{file} has schema {manifest.get('schema')!r}; this version reads {SCHEMA_VERSION}")
    present = set(files_of(folder))
    for name, digest in expected.items():
        if name not in present:
            raise UserError(f"{folder}: {name} is missing; export the bundle again")
        if sha256(folder / name) != digest:
            raise UserError(f"{folder}: {name} was changed after the export; export the bundle again")
    if extra := sorted(present - set(expected)):
        raise UserError(f"{folder}: {extra[0]} is not part of the bundle; remove it or export again")
    return manifest


def _run(
    folder: Path, scratch: Path, device: str, measurement: Mapping[str, Any], floor: NoiseFloor | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    import numpy as np

    # A copy: running it leaves byte code and results, and a bundle stays as it was exported.
    bundle, out = scratch / "bundle", scratch / "out"
    shutil.copytree(folder, bundle, dirs_exist_ok=True)
    arguments = ["--device", device, "--out", str(out)]
    for option in ("calls", "most_seconds", "warm_up_calls"):
        arguments += [f"--{option.replace('_', '-')}", str(measurement[option])]
    if floor is not None:
        arguments += ["--target", str(max(floor.of_figure("latency_ms"), NARROWEST_TARGET))]
    # A fresh process compiles as a new worker does; a second one, asked only about latency, need not again.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled")}
    try:
        run = command(bundle / "check" / "run.py", *arguments)
        done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise UserError(f"{folder} did not finish within {TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise UserError(f"{folder} could not be run: {_last_words(done.stderr)}")
    measured = json.loads((out / "result.json").read_text())
    with np.load(out / "pictures.npz", allow_pickle=False) as arrays:
        pictures = {name: arrays[name] for name in arrays.files}
    return measured, pictures


def _last_words(stderr: str) -> str:
    """The exception under a traceback, in one line: what follows the last line that is indented."""
    lines = stderr.strip().splitlines() or ["no message"]
    indented = [index for index, line in enumerate(lines[:-1]) if line.startswith(" ")]
    return " ".join(lines[indented[-1] + 1 :] if indented else lines[-1:])[:500]


def _compare_machine(expected: Fingerprint) -> Check:
    try:
        here = Fingerprint.current(expected.device_kind)
    except RuntimeError as error:
        return Check("machine", False, str(error))
    differences = expected.differences(here)
    text = "the machine and the versions of the evidence" if not differences else "; ".join(differences)
    return Check("machine", not differences, text)


def _floor(evidence: Mapping[str, Any]) -> NoiseFloor | None:
    return None if evidence.get("noise_floor") is None else NoiseFloor.from_dict(evidence["noise_floor"])


def _compare_latency(
    expected: Mapping[str, Any], measured: Mapping[str, Any], floor: NoiseFloor | None, processes: int
) -> Check:
    before, now = float(expected["latency_ms"]), float(measured["latency_ms"])
    change = now / before - 1
    text = f"{now:.1f} ms now, {before:.1f} ms in the evidence ({change:+.1%}"
    text += f", in the {('first', 'second', 'third')[processes - 1]} process" if processes > 1 else ""
    if floor is None:
        return Check(
            "latency_ms", change <= UNKNOWN_FLOOR, f"{text}; no noise floor known, tolerated {UNKNOWN_FLOOR:.0%})"
        )
    noise = floor.of_figure("latency_ms")
    if floor.tie("latency_ms", before, now):
        return Check("latency_ms", True, f"{text}): a tie, within the noise floor of {noise:.1%}")
    if change < 0:
        return Check("latency_ms", True, f"{text}): faster, by more than the noise floor of {noise:.1%}")
    beyond = f"slower, by more than the noise floor of {noise:.1%}"
    return Check("latency_ms", change <= noise + OTHER_DAY, f"{text}): {beyond}; tolerated {noise + OTHER_DAY:.1%}")


def _compare_memory(expected: Mapping[str, Any], measured: Mapping[str, Any], floor: NoiseFloor | None) -> Check:
    before, now = float(expected["peak_vram_gib"]), float(measured["peak_vram_gib"])
    change = now / before - 1
    noise = UNKNOWN_FLOOR if floor is None else floor.of_figure("peak_vram_gib")
    tolerance = noise + OTHER_DAY + MEMORY_SLACK_GIB / before
    text = f"{now:.2f} GiB now, {before:.2f} GiB in the evidence ({change:+.0%}, tolerated {tolerance:.0%})"
    return Check("peak_vram_gib", change <= tolerance, text)


def _compare_pictures(winner: Path, pictures: Mapping[str, Any], expected: Mapping[str, Any]) -> Check:
    import torch

    from ..objectives.pictures import judge_pictures, load_png, summarize_pictures

    if expected["quality"]["verdict"] == Verdict.NOT_ASSESSED:
        finite = all(torch.from_numpy(images).isfinite().all() for images in pictures.values())
        text = "not assessed (random weights); all finite" if finite else "values that are not finite"
        return Check("pictures", finite, text)
    judgements = []
    for name, images in pictures.items():
        for index, image in enumerate(torch.from_numpy(images)):
            file = winner / f"{name}-{index}.png"
            if not file.is_file():
                return Check("pictures", False, f"the evidence has no picture {file.name}")
            judgements += judge_pictures(load_png(file)[None], image[None])
    summary = summarize_pictures(judgements)
    text = f"{summary.n} pictures, the worst is {summary.verdict} against the evidence"
    return Check("pictures", summary.verdict.at_least(Verdict.IMPERCEPTIBLE), text)
