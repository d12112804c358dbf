"""One trial, inside its own process: run the trial folder's script, check effects, judge the pictures.

Everything it learns goes into files of the trial folder; the launching process reads them when this one has ended.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..search_space import Configuration, describe_pipelines, load_techniques, technique
from ..studies import Outcome
from . import trial_script
from ._failures import classify, sentence, tail
from ._files import write_json
from ._trial_folder import PHASES, PICTURES, RESULT

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a trial process is told. Plain data: it crosses a pipe as JSON."""

    folder: str
    device: str
    configuration: Mapping[str, Any]
    calls: int
    warm_up_calls: int
    reference_pictures: str | None
    """Folder with the reference's pictures; None for the reference itself."""
    quality_assessed: bool
    """False when pictures mean nothing (random weights): then only their being finite is checked."""
    technique_files: list[str]
    """Python files with the study's own techniques."""
    import_s: float
    """What a process without the fork server pays for its imports; part of a cold start."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Job":
        """The inverse of to_json."""
        return cls(**json.loads(line))


class ChangedNothingError(Exception):
    """A technique was applied and its effect check says that nothing changed."""


def run_trial(job: Job) -> None:
    """Run one trial to its end and write result.json. Never raises: failures are values."""
    folder = Path(job.folder)
    phases = trial_script.Phases(lambda name: _announce(folder, name))
    (folder / PICTURES).mkdir()
    result: dict[str, Any]
    try:
        result = {"outcome": Outcome.COMPLETE, "reason": "", "log_tail": "", **_measure(job, folder, phases)}
    except ChangedNothingError as error:
        result = {"outcome": Outcome.APPLY_ERROR, "reason": str(error), "log_tail": ""}
    except BaseException as error:  # a failure of any kind is this trial's outcome, and nobody else's problem
        outcome = classify(error, phases.current)
        result = {"outcome": outcome, "reason": sentence(error, phases.current), "log_tail": tail(error)}
    result["schema"] = SCHEMA_VERSION
    result["phases_s"] = {name: round(seconds, 3) for name, seconds in phases.seconds.items()}
    write_json(folder / RESULT, result)


def _measure(job: Job, folder: Path, phases: trial_script.Phases) -> dict[str, Any]:
    for file in job.technique_files:
        load_techniques(Path(file))
    configuration = Configuration.from_dict(job.configuration)
    described: dict[str, Any] = {}

    def after_load(pipelines: dict[str, Any], requests: list[Any]) -> None:
        described.update({name: facts.to_dict() for name, facts in describe_pipelines(pipelines, requests).items()})

    run = trial_script.load_file(folder / "run.py", "run")
    measurements, pictures = run.run(
        folder,
        job.device,
        calls=job.calls,
        warm_up_calls=job.warm_up_calls,
        phases=phases,
        after_load=after_load,
        after_warm_up=lambda pipelines: _check_effects(configuration, pipelines),
    )
    measurements["cold_start_s"] = job.import_s + phases.seconds["apply"] + measurements["first_call_ms"] / 1000
    with phases("judge"):
        if job.quality_assessed:
            quality = _judge(folder, pictures, job.reference_pictures)
        else:
            quality = _save_unjudged(folder, pictures)
    measurements["quality"] = quality
    measurements["drift"] = quality["drift"]
    outcome: dict[str, Any] = {"measurements": measurements, "pipelines": described}
    if quality["first_broken"]:
        outcome |= {"outcome": Outcome.INVALID_OUTPUT, "reason": quality["first_broken"]}
    return outcome


def _check_effects(configuration: Configuration, pipelines: dict[str, Any]) -> None:
    for step in configuration.steps:
        reason = technique(step.technique).took_effect(pipelines, **step.values())
        if reason is not None:
            raise ChangedNothingError(f"{step.technique} changed nothing: {reason}")


def _judge(folder: Path, pictures: Mapping[str, Any], reference: str | None) -> dict[str, Any]:
    import torch

    from ..objectives.pictures import judge_pictures, load_png, save_png, summarize_pictures

    judgements = []
    per_picture = []
    for name, images in pictures.items():
        for index, image in enumerate(images):
            file = f"{name}-{index}.png"
            save_png(image, folder / PICTURES / file)
            # A reference that is not finite is reported as broken, not compared with itself.
            original = image.nan_to_num() if reference is None else load_png(Path(reference) / file)
            (judgement,) = judge_pictures(original[None].to(torch.float32), image[None])
            judgements.append(judgement)
            per_picture.append({"file": file, "request": name, **judgement.to_dict()})
    summary = summarize_pictures(judgements).to_dict()
    first_broken = next((f"{p['file']}: {p['broken']}" for p in per_picture if p["broken"]), None)
    return {**summary, "pictures": per_picture, "first_broken": first_broken}


def _save_unjudged(folder: Path, pictures: Mapping[str, Any]) -> dict[str, Any]:
    from ..objectives.pictures import save_png
    from ..objectives.verdict import Verdict

    first_broken = None
    for name, images in pictures.items():
        if not images.isfinite().all():
            first_broken = f"{name}: the picture has values that are not finite"
        for index, image in enumerate(images):
            save_png(image, folder / PICTURES / f"{name}-{index}.png")
    return {"verdict": Verdict.NOT_ASSESSED, "drift": None, "pictures": [], "first_broken": first_broken}


def _announce(folder: Path, phase: str) -> None:
    with (folder / PHASES).open("a") as file:
        file.write(json.dumps({"phase": phase, "at": time.time(), "pid": os.getpid()}) + "\n")
