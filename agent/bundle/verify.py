"""Verify a bundle: nothing changed, and it still does what its evidence says, in a process without paretune."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...objectives.fingerprint import Fingerprint
from ...objectives.measuring import VARIANT
from ...objectives.measuring.stopping import interval_target
from ...objectives.noise_floor import UNSTEADY, NoiseFloor
from ...objectives.verdict import Verdict
from ...studies import UserError
from ..trial import COMPILED, script_command
from .manifest import read_manifest

OTHER_DAY = 0.05
"""Relative: beyond the noise floor, which was measured within one study, machines differ so much from day to day."""
UNKNOWN_FLOOR = 0.15
"""For a bundle of a study whose noise floor was not measured."""
UNSTEADY_TOLERANCE = 0.5
"""For a bundle of a machine that was too unsteady for its noise floor to say anything."""
MEMORY_SLACK_GIB = 0.1
"""Beside the relative tolerance: what libraries load once, whatever the model's size, moves between processes."""
PROCESSES = 3
"""One process in twenty is outside the noise floor by definition: a slow one is measured again, at most so often."""
TIMEOUT_S = 3600
SLOWER_AT_MOST = 3
"""Beside TIMEOUT_S, a picture may take so many times as long as a timed call of the evidence."""


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


def verify(
    folder: Path, *, compiled: Path | None = None, on_step: Callable[[str], None] = lambda text: None
) -> Verification:
    """Check every file, run the bundle in a fresh process, and compare with the evidence.

    compiled: the folder where compiled kernels lie; without it the process compiles as a new worker does.
    Raises UserError when the folder is no bundle, a file was changed, or the process could not run it.
    """
    on_step("checking the files")
    manifest = read_manifest(folder)
    evidence = json.loads((folder / "evidence" / "measurements.json").read_text())
    with tempfile.TemporaryDirectory(prefix="paretune-verify-") as scratch:
        on_step("running the bundle in a fresh process")
        expected = evidence["trial"]["figures"]
        floor = _floor(evidence)
        shown = sorted((folder / "evidence" / "winner").glob("*.png"))
        process = _Process(
            folder,
            Path(scratch),
            str(manifest["fingerprint"]["device_kind"]),
            evidence["measurement"],
            floor,
            compiled or Path(scratch) / COMPILED,
        )
        for attempt in range(PROCESSES):
            # Pictures are the same in every process, so the first one makes them.
            wanted = () if attempt else _requests_of(shown, _known_requests(folder))
            measured = process.run(attempt, wanted, seconds_each=float(expected["latency_ms"]) / 1000)
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
            _compare_pictures(shown, process.out(0) / "pictures.npz", evidence["trial"]["measurements"]["quality"]),
        ]
    return Verification(tuple(checks))


def _known_requests(folder: Path) -> set[str]:
    workload = json.loads((folder / "check" / "workload.json").read_text())
    return {str(request["name"]) for request in workload["requests"]}


def _requests_of(shown: Sequence[Path], known: Set[str]) -> tuple[str, ...]:
    """The requests, and variants of them, that the evidence has pictures of: "cat" and "cat~1" of "cat~1-0.png"."""
    names = dict.fromkeys(file.stem.rpartition("-")[0] for file in shown)
    return tuple(name for name in names if name.partition(VARIANT)[0] in known)


@dataclass(frozen=True)
class _Process:
    """Runs a copy of the bundle: running it leaves byte code and results, and a bundle stays as it was exported."""

    folder: Path
    scratch: Path
    device: str
    measurement: Mapping[str, Any]
    floor: NoiseFloor | None
    compiled: Path

    def out(self, attempt: int) -> Path:
        """Where a process leaves what it measured and made."""
        return self.scratch / f"out-{attempt}"

    def run(self, attempt: int, pictures: Sequence[str], seconds_each: float) -> dict[str, Any]:
        """What a fresh process measures; it makes the pictures too. Raises UserError when it fails."""
        bundle, out = self.scratch / "bundle", self.out(attempt)
        shutil.copytree(self.folder, bundle, dirs_exist_ok=True)
        arguments = ["--device", self.device, "--out", str(out), "--pictures", *pictures]
        for option in ("calls", "most_calls", "most_seconds", "warm_up_calls"):
            arguments += [f"--{option.replace('_', '-')}", str(self.measurement[option])]
        if self.floor is not None:
            arguments += ["--target", str(interval_target(self.floor.of_figure("latency_ms")))]
        # What the first process compiles, a second one, asked only about latency, need not compile again.
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(self.compiled.absolute())}
        timeout_s = TIMEOUT_S + SLOWER_AT_MOST * seconds_each * len(pictures)
        try:
            run = script_command(bundle / "check" / "run.py", *arguments)
            done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise UserError(f"{self.folder} did not finish within {timeout_s:.0f} s") from None
        if done.returncode != 0:
            raise UserError(f"{self.folder} could not be run: {_last_words(done.stderr)}")
        measured: dict[str, Any] = json.loads((out / "result.json").read_text())
        return measured


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
            "latency_ms", change <= UNKNOWN_FLOOR, f"{text}; no noise floor known, up to {UNKNOWN_FLOOR:.0%} passes)"
        )
    if floor.unsteady:
        words = "the evidence is from a machine too unsteady to compare closely, so up to 1.5 times the latency passes"
        return Check("latency_ms", change <= UNSTEADY_TOLERANCE, f"{text}): {words}")
    noise = floor.of_figure("latency_ms")
    if floor.tie("latency_ms", before, now):
        return Check("latency_ms", True, f"{text}): a tie, within the noise floor of {noise:.1%}")
    if change < 0:
        return Check("latency_ms", True, f"{text}): faster, by more than the noise floor of {noise:.1%}")
    beyond = f"slower, by more than the noise floor of {noise:.1%}"
    return Check("latency_ms", change <= noise + OTHER_DAY, f"{text}): {beyond}; up to {noise + OTHER_DAY:.1%} passes")


def _compare_memory(expected: Mapping[str, Any], measured: Mapping[str, Any], floor: NoiseFloor | None) -> Check:
    before, now = float(expected["peak_vram_gib"]), float(measured["peak_vram_gib"])
    change = now / before - 1
    noise = UNKNOWN_FLOOR if floor is None else min(floor.of_figure("peak_vram_gib"), UNSTEADY)
    tolerance = noise + OTHER_DAY + MEMORY_SLACK_GIB / before
    text = f"{now:.2f} GiB now, {before:.2f} GiB in the evidence ({change:+.0%}, up to {tolerance:.0%} passes)"
    return Check("peak_vram_gib", change <= tolerance, text)


def _compare_pictures(shown: Sequence[Path], made: Path, quality: Mapping[str, Any]) -> Check:
    """Every picture of the evidence against the one that was made now; `made` is the process's pictures.npz."""
    import numpy as np
    import torch

    from ...objectives.pictures import judge_pictures, load_png

    assessed = quality["verdict"] != Verdict.NOT_ASSESSED
    missing, verdicts, finite = [], {}, True
    with np.load(made, allow_pickle=False) as arrays:  # reads one array at a time, when it is asked for
        for name, files in _by_request(shown).items():
            images = torch.from_numpy(arrays[name]) if name in arrays.files else torch.empty(0)
            for index, file in files:
                if index >= len(images):
                    missing.append(file.name)
                elif assessed:
                    verdicts[file.name] = judge_pictures(load_png(file)[None], images[index][None])[0].verdict
                else:
                    finite = finite and bool(images[index].isfinite().all())
    if not shown:
        return Check("pictures", False, "the evidence has none")
    if missing:
        which = ", ".join(missing[:4]) + (" and more" if len(missing) > 4 else "")
        return Check("pictures", False, f"{len(missing)} of the evidence's {len(shown)} could not be made: {which}")
    count = f"{len(shown)} of {len(shown)} pictures"
    if not assessed:
        words = "all finite" if finite else "values that are not finite"
        return Check("pictures", finite, f"{count}; not assessed (random weights), {words}")
    worst = max(verdicts, key=lambda name: verdicts[name].rank)
    same = verdicts[worst].at_least(Verdict.IMPERCEPTIBLE)
    which = "" if same else f" ({worst})"
    return Check("pictures", same, f"{count}, the worst is {verdicts[worst]} against the evidence{which}")


def _by_request(shown: Sequence[Path]) -> dict[str, list[tuple[int, Path]]]:
    """{request or variant: [(place in its batch, file)]}, of files called NAME-PLACE.png."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for file in shown:
        name, _, index = file.stem.rpartition("-")
        found.setdefault(name, []).append((int(index), file))
    return found
