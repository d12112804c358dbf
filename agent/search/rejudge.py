"""Judge stored pictures again: a new metric, weights, or a user's own metric, without generating anything."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...objectives.measuring import variant
from ...objectives.verdict import THRESHOLDS
from ...search_space import Configuration
from ...studies import MeasurementRecord, Outcome, Records, Request, Study, StudyRecord, UserError
from ...studies._study import parse_study
from ..measuring.runner import requests_of
from ..trial.folder import LATENTS, PICTURES, trial_folder
from ..trial.judge import Judge, latents_of
from .continuation import changed_settings, only_launcher, same_workload, workload_key


@dataclass(frozen=True)
class Rejudged:
    """What was done."""

    pictures: int
    settings: list[str]
    """What a launch that continues the study needs behind --set now, beside what it had before."""


def rejudge(
    records: Records,
    name: str,
    settings: list[str],
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Rejudged:
    """Judge every stored picture of a study, and write the new quality when the last one is judged: all or nothing.

    settings: "quality.weights.lpips=PATH" and the like, kept with the study. A trial keeps its outcome: what Optuna was
    told stays told. Raises UserError when pictures mean nothing there or are gone, a setting is not about quality, or
    the study is being launched.
    """
    record = records.study(name)
    if not (trial_folder(Path(record.files), 0) / PICTURES).is_dir():
        raise UserError(f"the pictures of {name} are gone from {record.files}, so it cannot be judged again")
    with only_launcher(Path(record.files), name, doing="judged again"):
        return _rejudge(records, records.study(name), settings, on_step)


def _rejudge(
    records: Records, record: StudyRecord, settings: list[str], on_step: Callable[[int, int, str], None]
) -> Rejudged:
    before = Study.model_validate(record.study)
    study = _with(before, settings)
    if not study.workload.quality_assessed:
        raise UserError(f"the pictures of {study.name} mean nothing (random weights)")
    if not same_workload(record, study):
        raise UserError(
            f"the Python files or models of study {study.name} have changed since its pictures were made: restore them"
        )
    judge = Judge({str(name): path for name, path in study.quality.weights.items()}, study.quality.files)
    requests = requests_of(study)
    rows = records.measurements(study.name)
    complete = [row for row in rows if row.outcome == Outcome.COMPLETE]
    total = sum(len(row.measurements["quality"]["pictures"]) for row in complete)
    key = workload_key(study)
    # Failures get the key too: another study of this workload that is judged in this way learns of them.
    trials: dict[int, dict[str, Any]] = {row.trial: {"workload_key": key} for row in rows}
    done = 0
    for row in complete:
        label = str(Configuration.from_dict(row.configuration)) if not study.space.files else f"trial {row.trial}"
        pictures = []
        for known in row.measurements["quality"]["pictures"]:
            on_step(done, total, label)
            pictures.append(_judge_again(judge, study, requests, Path(record.files), row, known))
            done += 1
        quality = judge.sum_up(pictures)
        trials[row.trial]["measurements"] = {**row.measurements, "quality": quality, "drift": quality["drift"]}
    also: dict[str, Any] = {"benign_floor": None} if _other_verdicts(before, study) else {}
    stored = study.model_dump(by_alias=True, mode="json")
    records.update_all(study.name, trials, study=stored, workload_key=key, **also)
    return Rejudged(done, changed_settings(before.quality, study.quality))


def _judge_again(
    judge: Judge, study: Study, requests: list[Request], files: Path, row: MeasurementRecord, known: dict[str, Any]
) -> dict[str, Any]:
    from ...objectives.pictures import load_png

    folders = [trial_folder(files, number) for number in (row.trial, 0)]
    images = [folder / PICTURES / known["file"] for folder in folders]
    if gone := next((file for file in images if not file.is_file()), None):
        raise UserError(f"{gone} is gone, so {study.name} cannot be judged again")
    request = variant(requests, known["request"])
    index = int(Path(known["file"]).stem.rpartition("-")[2])
    latents = [latents_of(folder / LATENTS, request.name, request.batch)[index] for folder in folders]
    try:
        judged = judge.judge_file(load_png(images[0]), load_png(images[1]), request.prompt, *latents)
    except Exception as error:  # a metric of the user's own, or weights that are none: anything can be wrong with them
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{images[0]} could not be judged ({text}): nothing was changed") from error
    return {"file": known["file"], "request": known["request"], "prompt": request.prompt, **judged}


def _other_verdicts(before: Study, after: Study) -> bool:
    """Whether a metric that decides verdicts came or went: then the benign floor, whose pictures are not kept, is of
    other verdicts, and the next launch measures it again.
    """
    deciding = {threshold.metric for threshold in THRESHOLDS}
    return {*before.quality.weights} & deciding != {*after.quality.weights} & deciding


def _with(study: Study, settings: list[str]) -> Study:
    from ...studies._study import _override

    data = study.model_dump(by_alias=True, mode="json")
    for setting in settings:
        if not setting.startswith("quality."):
            raise UserError(f"--set {setting}: judging again can change keys of quality only")
        _override(data, setting)
    return parse_study(data, f"study {study.name}", Path.cwd())
