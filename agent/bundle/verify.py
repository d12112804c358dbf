"""Verify a bundle: nothing changed, and it still does what its evidence says, in a process without paretune."""

import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ...objectives.fingerprint import Fingerprint
from ...objectives.measuring import VARIANT
from ...objectives.measuring.stopping import interval_target
from ...objectives.noise_floor import UNSTEADY, NoiseFloor
from ...objectives.verdict import Verdict
from ...studies import UserError, content_digest, remember_place
from ..trial import COMPILED, run_script
from .contents import Evidence, Figures
from .reading import Bundle, open_bundle
from .trust import SIGNATURE

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
    folder: Path | str,
    *,
    compiled: Path | None = None,
    models: Mapping[str, Path] | None = None,
    trusted_key: Path | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Check every file, run the bundle in a fresh process, and compare with the evidence.

    This runs the bundle's code as the user who asks for it. The manifest finds damage, not forgery; with `trusted_key`,
    a public key, it has to be signed with that, or nothing of the bundle is run.

    compiled: the folder where compiled kernels lie; without it the process compiles as a new worker does.
    models: {pipeline: folder of its model}, for those that this machine is not known to have.
    Raises UserError when the folder is no bundle, a file was changed, or the process could not run it.
    """
    folder = Path(folder)
    on_step("checking the files")
    with tempfile.TemporaryDirectory(prefix="paretune-verify-") as scratch:
        # Only a copy of the listed files is used: nothing can be added or changed after it was checked, and a bundle
        # stays as it was exported.
        bundle = open_bundle(folder, Path(scratch) / "bundle", trusted_key)
        find_models(bundle, folder, models or {})
        on_step("running the bundle in a fresh process")
        found = _run_and_compare(bundle, folder, Path(scratch), compiled, on_step)
        return Verification((files_check(bundle, folder, trusted_key), *found))


def _run_and_compare(
    bundle: Bundle, folder: Path, scratch: Path, compiled: Path | None, on_step: Callable[[str], None]
) -> tuple[Check, ...]:
    expected, floor = bundle.evidence.trial.figures, bundle.floor
    device = bundle.manifest.fingerprint.device_kind
    arguments = ["--device", device, *_options(bundle.evidence, floor)]
    # What the first process compiles, a second one, asked only about latency, need not compile again.
    environment = {"TORCHINDUCTOR_CACHE_DIR": str((compiled or scratch / COMPILED).absolute())}
    for attempt in range(PROCESSES):
        # Pictures are the same in every process, so the first one makes them.
        wanted = () if attempt else _requests_of(bundle)
        timeout_s = TIMEOUT_S + SLOWER_AT_MOST * expected.latency_ms / 1000 * len(wanted)
        try:
            found = run_script(
                bundle.folder / "check" / "run.py",
                [*arguments, *wanted],
                out=scratch / f"out-{attempt}",
                environment=environment,
                timeout_s=timeout_s,
            )
            measured = Figures.model_validate(found)
        except TimeoutError:
            raise UserError(f"{folder} did not finish within {timeout_s:.0f} s") from None
        except RuntimeError as error:
            raise UserError(f"{folder} could not be run: {error}") from None
        except ValidationError:
            raise UserError(f"{folder} could not be run: what it measured is no latency and memory") from None
        latency = _compare_latency(expected, measured, floor, attempt + 1)
        if latency.passed:
            break
        on_step("slower than in the evidence: measuring again in another process")
    on_step("comparing with the evidence")
    return (
        compare_machine(bundle.manifest.machine()),
        latency,
        _compare_memory(expected, measured, floor),
        compare_pictures(bundle, scratch / "out-0" / "pictures.npz", folder, bundle.pictures),
    )


def files_check(bundle: Bundle, folder: Path, trusted_key: Path | None) -> Check:
    """That the files are the exported ones, and what is known of who exported them."""
    files = f"{len(bundle.manifest.files)} files are as they were exported"
    if trusted_key is not None:
        return Check("files", True, f"{files}, and their list is signed with the key of {trusted_key}")
    signed = "; there is a signature, which --trusted-key would check" if (folder / SIGNATURE).exists() else ""
    return Check("files", True, f"{files} (this finds damage, not forgery{signed})")


def find_models(bundle: Bundle, folder: Path, models: Mapping[str, Path]) -> None:
    """See that every model is here that the bundle only names. Raises UserError."""
    specs = bundle.workload.pipelines or {}
    for name, place in models.items():
        digest = specs[name].digest if name in specs else None
        if digest is None:
            raise UserError(f"--model {name}={place}: {folder} needs no model folder for a pipeline {name!r}")
        if content_digest(place) != digest:
            raise UserError(f"--model {name}={place}: that is not the model of the evidence, whose digest is {digest}")
        remember_place(digest, place)
    for name, spec in bundle.workload.missing_models().items():
        raise UserError(
            f"{folder} needs the model folder {spec.model!r} (digest {spec.digest}), which is not in the bundle and "
            f"not known on this machine: say where it is with --model {name}=FOLDER"
        )


def _requests_of(bundle: Bundle) -> tuple[str, ...]:
    """The requests, and variants of them, that the evidence has pictures of: "cat" and "cat~1" of "cat~1-0.png"."""
    known = {request.name for request in bundle.workload.requests}
    return tuple(name for name in _by_request(bundle.pictures) if name.partition(VARIANT)[0] in known)


def _options(evidence: Evidence, floor: NoiseFloor | None) -> list[str]:
    """What run.py has to be told to measure as the study did; the names of pictures follow."""
    options = []
    for name, value in evidence.measurement.model_dump().items():
        options += [f"--{name.replace('_', '-')}", str(value)]
    if floor is not None:
        options += ["--target", str(interval_target(floor.of_figure("latency_ms")))]
    return [*options, "--pictures"]


def compare_machine(expected: Fingerprint) -> Check:
    """This machine against the one of the evidence."""
    try:
        here = Fingerprint.current(expected.device_kind)
    except RuntimeError as error:
        return Check("machine", False, str(error))
    differences = expected.differences(here)
    text = "the machine and the versions of the evidence" if not differences else "; ".join(differences)
    return Check("machine", not differences, text)


def _compare_latency(expected: Figures, measured: Figures, floor: NoiseFloor | None, processes: int) -> Check:
    before, now = expected.latency_ms, measured.latency_ms
    change = now / before - 1
    text = f"{now:.1f} ms now, {before:.1f} ms in the evidence ({change:+.1%}"
    text += f", in the {('first', 'second', 'third')[processes - 1]} process" if processes > 1 else ""
    noise = UNKNOWN_FLOOR if floor is None else floor.of_figure("latency_ms")
    tolerated = noise + OTHER_DAY
    if floor is None:
        tolerated, words = UNKNOWN_FLOOR, f"; no noise floor known, up to {UNKNOWN_FLOOR:.0%} passes)"
    elif floor.unsteady:
        tolerated = UNSTEADY_TOLERANCE
        words = (
            "): the evidence is from a machine too unsteady to compare closely, so up to 1.5 times the latency passes"
        )
    elif floor.tie("latency_ms", before, now):
        words = f"): a tie, within the noise floor of {noise:.1%}"
    elif change < 0:
        words = f"): faster, by more than the noise floor of {noise:.1%}"
    else:
        words = f"): slower, by more than the noise floor of {noise:.1%}; up to {tolerated:.1%} passes"
    return Check("latency_ms", change <= tolerated, text + words)


def _compare_memory(expected: Figures, measured: Figures, floor: NoiseFloor | None) -> Check:
    before, now = expected.peak_vram_gib, measured.peak_vram_gib
    change = now / before - 1
    noise = UNKNOWN_FLOOR if floor is None else min(floor.of_figure("peak_vram_gib"), UNSTEADY)
    tolerance = noise + OTHER_DAY + MEMORY_SLACK_GIB / before
    text = f"{now:.2f} GiB now, {before:.2f} GiB in the evidence ({change:+.0%}, up to {tolerance:.0%} passes)"
    return Check("peak_vram_gib", change <= tolerance, text)


def compare_pictures(bundle: Bundle, made: Path, folder: Path, shown: Sequence[Path]) -> Check:
    """Pictures of the evidence against what was made now; `made` is the process's pictures.npz. Raises UserError."""
    try:
        return judge_pictures(shown, made, bundle.evidence.trial.measurements.quality.verdict)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder} could not be run: its pictures cannot be compared ({reason})") from None


def judge_pictures(shown: Sequence[Path], made: Path, verdict: Verdict) -> Check:
    """The files against what is in pictures.npz; with random weights only whether that is finite."""
    import numpy as np
    import torch

    from ...objectives.judging import Judge
    from ...objectives.pictures import load_png

    assessed = verdict is not Verdict.NOT_ASSESSED
    missing: list[str] = []
    empty: list[str] = []
    verdicts, finite = {}, True
    with np.load(made, allow_pickle=False) as arrays:  # reads one array at a time, when it is asked for
        for name, files in _by_request(shown).items():
            images = torch.from_numpy(arrays[name]) if name in arrays.files else torch.empty(0)
            for index, file in files:
                if index >= len(images):
                    missing.append(file.name)
                elif assessed:
                    judged = Judge().judge_file(images[index], load_png(file), "")
                    verdicts[file.name] = Verdict(judged["verdict"])
                    if judged.get("no_evidence"):
                        empty.append(f"{file.name}: {judged['no_evidence']}")
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
    if empty:
        return Check("pictures", False, f"{len(empty)} of the evidence's {len(shown)} show nothing ({empty[0]})")
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
