"""Judge stored pictures again: a new metric, weights, or a user's own metric, without generating anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...objectives.judging import Judge
from ...objectives.measuring import variant
from ...studies import (
    Outcome,
    Records,
    Request,
    RunKind,
    RunRecord,
    Study,
    UserError,
    override,
    parse_study,
    same_workload,
    workload_key,
)
from ..results import Results, Trial
from ..trial import LATENTS, PICTURES, latents_of
from .lock import Lock, only_launcher
from .refusals import changed_settings


@dataclass(frozen=True)
class Rejudged:
    """What was done."""

    pictures: int
    settings: list[str]
    """What a launch now needs as --set to continue the study, besides what it had before."""


def rejudge(
    records: Records,
    name: str,
    settings: list[str],
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Rejudged:
    """Judge every stored picture of a study, and write the new judgements when the last one is made: all or nothing.

    settings: "quality.weights.lpips=PATH" and the like, kept with the study. A trial keeps its outcome, and
    Optuna is told nothing new. Raises UserError when the weights are random, pictures are gone, the
    reference's show nothing, a setting is not about quality, or the study is being launched.
    """
    results = Results(records, name)
    files = Path(results.record.files)
    if not files.is_dir() or not (results.reference.pictures_folder / PICTURES).is_dir():
        raise UserError(f"the pictures of {name} are gone from {files}, so it cannot be judged again")
    with only_launcher(records, name, doing="judged again") as lock:
        return _rejudge(Results(records, name), settings, on_step, lock)


def _rejudge(results: Results, settings: list[str], on_step: Callable[[int, int, str], None], lock: Lock) -> Rejudged:
    before = results.study
    study = _with(before, settings)
    if not study.workload.quality_assessed:
        raise UserError(f"the pictures of {study.name} cannot be judged (random weights)")
    if not same_workload(results.record, study):
        raise UserError(
            f"the Python files or models of study {study.name} have changed since its pictures were made: restore them"
        )
    quality = study.quality
    weights = {str(name): path for name, path in quality.weights.items()}
    near_lossless = {str(name): value for name, value in quality.near_lossless.items()}
    judge = Judge(weights, quality.files, near_lossless=near_lossless)
    requests = study.requests()
    judged = [trial for trial in results.complete if trial.judged_pictures]
    total = sum(len(trial.judged_pictures) for trial in judged)
    key = workload_key(study)
    runs, done = [], 0
    for trial in judged:
        pictures = []
        for known in trial.judged_pictures:
            on_step(done, total, str(trial.configuration))
            pictures.append(_judge_again(judge, trial, requests, known))
            done += 1
        summary = judge.sum_up(pictures)
        if not summary["pictures"]:
            raise UserError(
                f"the reference's pictures in study {study.name} show nothing ({pictures[0]['file']}: "
                f"{pictures[0]['no_evidence']}), so trial {trial.number} cannot be judged: launch the study again "
                "under another --name"
            )
        judgement = RunRecord(
            kind=RunKind.REJUDGE,
            workload_key=key,
            configuration_key=trial.configuration.key,
            configuration=trial.configuration.to_dict(),
            fingerprint_key=trial.timing.fingerprint_key,
            study=study.name,
            trial=trial.number,
            outcome=Outcome.COMPLETE,
            measurements={"quality": summary, "drift": summary["drift"]},
        )
        runs.append(judgement)
    lock.check()
    results.records.judge_again(study.name, study.model_dump(by_alias=True, mode="json"), key, runs)
    return Rejudged(done, changed_settings(before.quality, study.quality))


def _judge_again(judge: Judge, trial: Trial, requests: list[Request], known: Mapping[str, Any]) -> dict[str, Any]:
    from ...objectives.pictures import load_png

    folders = [trial.pictures_folder, trial.results.reference.pictures_folder]
    images = [folder / PICTURES / known["file"] for folder in folders]
    if gone := next((file for file in images if not file.is_file()), None):
        raise UserError(f"{gone} is gone, so {trial.results.name} cannot be judged again")
    request = variant(requests, known["request"])
    index = int(Path(known["file"]).stem.rpartition("-")[2])
    latents = [latents_of(folder / LATENTS, request.name, request.batch)[index] for folder in folders]
    try:
        judged = judge.judge_file(load_png(images[0]), load_png(images[1]), request.prompt, *latents)
    except Exception as error:  # a user's own metric or weights may fail in any way
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{images[0]} could not be judged ({text}): nothing was changed") from error
    return {"file": known["file"], "request": known["request"], "prompt": request.prompt, **judged}


def _with(study: Study, settings: list[str]) -> Study:
    data = study.model_dump(by_alias=True, mode="json")
    for setting in settings:
        if not setting.startswith("quality."):
            raise UserError(f"--set {setting}: judging again can change keys of quality only")
        override(data, setting)
    return parse_study(data, f"study {study.name}", Path.cwd())
