"""One trial, inside its own process: measure as the trial folder's files do, check effects, judge the pictures.

Everything it learns goes into files of the trial folder; the launching process reads them when this one has ended.
"""

import gc
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...objectives.judging import Judge
from ...objectives.measuring import Made, Phases, variant
from ...objectives.measuring.memory import release_unused
from ...objectives.measuring.stopping import dominated_by
from ...search_space import (
    Configuration,
    PipelineFacts,
    describe_pipelines,
    load_techniques,
    technique,
    with_visits,
)
from ...studies import Outcome
from .failures import classify, sentence, tail
from .files import write_json
from .folder import LATENTS, PHASES, PICTURES, RESULT, load_measuring
from .judge import judge_made, picture_file, save_latents, save_unjudged
from .repeats import ADVICE, judge_repeats, repetition_words, too_far

SCHEMA_VERSION = 2
PICTURES_WHILE_TIMING = 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a trial process is told. Plain data: it crosses a pipe as JSON."""

    folder: str
    device: str
    configuration: Mapping[str, Any]
    apply_py: str
    """The text of the apply.py that it runs."""
    workload: Mapping[str, Any]
    """The content of workload.json."""
    plan: Mapping[str, Any]
    """A Plan as plain data: what this process measures."""
    reference_pictures: str | None
    """Folder with the reference's pictures; None for the reference itself."""
    quality_assessed: bool
    """False with random weights: then pictures are only checked for values that are not finite."""
    technique_files: list[str]
    """Python files with the study's own techniques."""
    import_s: float
    """What a process without the fork server pays for its imports; part of a cold start."""
    judge: bool = True
    """Whether pictures are kept and judged; not for a process that only times."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """{learned metric: path of its weights}."""
    metric_files: list[str] = field(default_factory=list)
    """Python files with the study's own metrics."""
    near_lossless: Mapping[str, float] = field(default_factory=dict)
    """{metric: threshold} of the study's own."""
    known_pictures: list[dict[str, Any]] = field(default_factory=list)
    """Pictures of this configuration that were judged before: summed up together with the new ones."""
    front: list[dict[str, float]] = field(default_factory=list)
    """Measured configurations that may make this one pointless (see dominated_by)."""
    shapes: int = 1
    """How many shapes of request there are: each is timed on its own, so deadlines grow with them."""
    compiled: str | None = None
    """Folder with what this configuration compiled before; by default a new one, empty."""


class FailedError(Exception):
    """The trial cannot go on: its outcome, and the reason in one sentence."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


def run_trial(job: Job) -> None:
    """Run one trial to its end and write result.json. Never raises: failures are values."""
    folder = Path(job.folder)
    phases = Phases(lambda name: _announce(folder, name))
    (folder / PICTURES).mkdir()
    result: dict[str, Any]
    try:
        result = {"outcome": Outcome.COMPLETE, **_measure(job, folder, phases)}
    except FailedError as error:
        result = {"outcome": error.outcome, "reason": str(error)}
    except BaseException as error:  # any failure is the outcome of this trial, and of no other
        outcome = classify(error, phases.current)
        result = {"outcome": outcome, "reason": sentence(error, phases.current), "log_tail": tail(error)}
    result["schema"] = SCHEMA_VERSION
    result["phases_s"] = {name: round(seconds, 3) for name, seconds in phases.seconds.items()}
    write_json(folder / RESULT, result)


def _measure(job: Job, folder: Path, phases: Phases) -> dict[str, Any]:
    for file in job.technique_files:
        load_techniques(Path(file))
    configuration = Configuration.from_dict(job.configuration)
    described: dict[str, Any] = {}
    requests: list[Any] = []

    def after_load(pipelines: dict[str, Any], loaded: list[Any]) -> None:
        described.update({name: facts.to_dict() for name, facts in describe_pipelines(pipelines, loaded).items()})
        requests.extend(loaded)

    def after_warm_up(pipelines: dict[str, Any], made: Made) -> None:
        _check_effects(configuration, pipelines)
        if is_reference:
            _check_repeats(judge_repeats(made))

    judge = Judge(job.weights, job.metric_files, job.device, job.near_lossless)
    is_reference = job.judge and job.quality_assessed and job.reference_pictures is None
    copied = load_measuring(folder)
    try:
        measurements, made = copied.measure_configuration(
            folder,
            job.device,
            plan=copied.Plan.from_dict(job.plan),
            phases=phases,
            after_load=after_load,
            after_warm_up=after_warm_up,
            dominated=lambda known, pictures: _dominated(
                job, {**known, "cold_start_s": _cold_start_s(job, phases, known)}, pictures
            ),
        )
    except copied.InvalidOutputError as error:
        raise FailedError(Outcome.INVALID_OUTPUT, f"{phases.current}: {error}") from None
    seen = with_visits(
        {name: PipelineFacts.from_dict(facts) for name, facts in described.items()}, measurements["visits"], requests
    )
    described = {name: facts.to_dict() for name, facts in seen.items()}
    measurements["cold_start_s"] = _cold_start_s(job, phases, measurements)
    outcome: dict[str, Any] = {"measurements": measurements, "pipelines": described}
    if not job.judge:
        return outcome
    with phases("judge"):
        _free_the_gpu(job.device)
        if job.quality_assessed:
            reference = None if job.reference_pictures is None else Path(job.reference_pictures)
            prompts = {name: variant(requests, name).prompt for name in made.pictures}
            quality = judge_made(judge, folder / PICTURES, made, reference, prompts, job.known_pictures)
            if is_reference:
                quality["repeat"] = judge_repeats(made)
                _check_repeats(quality["repeat"])
                _check_evidence(quality, described)
        else:
            quality = save_unjudged(folder / PICTURES, made.pictures)
        save_latents(folder / LATENTS, made.latents)
    measurements["quality"] = quality
    measurements["drift"] = quality["drift"]
    if quality["first_broken"]:
        outcome |= {"outcome": Outcome.INVALID_OUTPUT, "reason": quality["first_broken"]}
    return outcome


def _cold_start_s(job: Job, phases: Phases, measurements: Mapping[str, Any]) -> float:
    return float(job.import_s + phases.seconds["apply"] + measurements["first_call_ms"] / 1000)


def _free_the_gpu(device: str) -> None:
    """The pipelines are no longer needed, and metrics with weights need their memory."""
    if device.startswith("cuda"):
        gc.collect()
        release_unused(device)


def _dominated(job: Job, known: Mapping[str, Any], pictures: Mapping[str, Any]) -> int | None:
    """The measured trial that makes this one pointless, from what is known of it so far."""

    def drift_so_far() -> float | None:
        from ...objectives.pictures import load_png
        from ...objectives.verdict import configuration_drift

        # Judging interrupts timing, so a few pictures have to do. More of them could only drift further.
        some = [
            (picture_file(name, index), image)
            for name, images in pictures.items()
            for index, image in enumerate(images)
        ]
        reference = Path(str(job.reference_pictures))
        judged = [
            Judge().judge_file(image, load_png(reference / file), "") for file, image in some[:PICTURES_WHILE_TIMING]
        ]
        shown = [one for one in judged if not one.get("no_evidence")]
        if not shown:
            return None
        return configuration_drift([one["drift"] for one in shown], any(one["broken"] for one in shown))

    return dominated_by(known, drift_so_far, job.front)


def _check_effects(configuration: Configuration, pipelines: dict[str, Any]) -> None:
    for step in configuration.steps:
        reason = technique(step.technique).took_effect(pipelines, **step.values())
        if reason is not None:
            raise FailedError(Outcome.APPLY_ERROR, f"{step.technique} changed nothing: {reason}")


def _check_repeats(found: Mapping[str, Any] | None) -> None:
    """The reference has to give the same pictures twice, or nothing can be compared with it."""
    if found is not None and too_far(found):
        text = (
            f"the pictures do not repeat: made again in the same process, they are {repetition_words(found)}; {ADVICE}"
        )
        raise FailedError(Outcome.INVALID_OUTPUT, text)


def _check_evidence(quality: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Of the reference's pictures, some at least have to show something."""
    empty = quality["no_evidence"]
    if quality["pictures"] or not empty:
        return
    count = "the only picture shows" if len(empty) == 1 else f"all {len(empty)} pictures show"
    text = f"{count} nothing ({empty[0]['file']}: {empty[0]['no_evidence']}), so nothing can be compared with them; "
    if any("safety_checker" in facts["modules"] for facts in described.values()):
        text += "the usual cause is a safety checker that blackens pictures: load the pipelines without it"
    else:
        text += "see to it that the unchanged pipelines make pictures"
    raise FailedError(Outcome.INVALID_OUTPUT, text)


def _announce(folder: Path, phase: str) -> None:
    with (folder / PHASES).open("a") as file:
        file.write(json.dumps({"phase": phase, "at": time.time(), "pid": os.getpid()}) + "\n")
