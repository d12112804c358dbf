"""Judge stored pictures again: a new metric, weights, or a user's own metric, without generating anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..search_space import Configuration
from ..studies import Outcome, Records, Request, Study, UserError
from ..studies._study import parse_study
from ._judging import Judge, latents_of
from ._trial_folder import LATENTS, PICTURES, trial_folder
from .trial_script import variant


def rejudge(
    records: Records,
    name: str,
    settings: list[str],
    on_step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> int:
    """Judge every stored picture of a study and write the new quality; returns how many pictures.

    settings: "quality.weights.lpips=PATH" and the like, kept with the study. A trial keeps its outcome: what Optuna was
    told stays told. Raises UserError when pictures mean nothing there, or a setting is not about quality.
    """
    from ..objectives.pictures import load_png

    record = records.study(name)
    study = _with(Study.model_validate(record.study), settings)
    if not study.workload.quality_assessed:
        raise UserError(f"the pictures of {name} mean nothing (random weights)")
    files = Path(record.files)
    requests = [
        Request(**{**request, "adapters": tuple(request.get("adapters", ()))})
        for request in study.workload_description()["requests"]
    ]
    judge = Judge({str(name): path for name, path in study.quality.weights.items()}, study.quality.files)
    reference = trial_folder(files, 0) / PICTURES
    rows = [row for row in records.measurements(name) if row.outcome == Outcome.COMPLETE]
    total = sum(len(row.measurements["quality"]["pictures"]) for row in rows)
    done = 0
    for row in rows:
        pictures = []
        label = str(Configuration.from_dict(row.configuration)) if not study.space.files else f"trial {row.trial}"
        for known in row.measurements["quality"]["pictures"]:
            on_step(done, total, label)
            candidate = trial_folder(files, row.trial) / PICTURES / known["file"]
            if not candidate.is_file() or not (reference / known["file"]).is_file():
                raise UserError(f"{candidate} is gone, so {name} cannot be judged again")
            request = variant(requests, known["request"])
            prompt, index = request.prompt, int(Path(known["file"]).stem.rpartition("-")[2])
            latents = [
                latents_of(folder.parent / LATENTS, request.name, request.batch)[index]
                for folder in (candidate.parent, reference)
            ]
            judged = judge.judge_file(load_png(candidate), load_png(reference / known["file"]), prompt, *latents)
            pictures.append({"file": known["file"], "request": known["request"], "prompt": prompt, **judged})
            done += 1
        quality: dict[str, Any] = judge.sum_up(pictures)
        measurements = {**row.measurements, "quality": quality, "drift": quality["drift"]}
        records.update_measurement(name, row.trial, measurements=measurements)
    records.update_study(name, study=study.model_dump(by_alias=True, mode="json"))
    return done


def _with(study: Study, settings: list[str]) -> Study:
    from ..studies._study import _override

    data = study.model_dump(by_alias=True, mode="json")
    for setting in settings:
        if not setting.startswith("quality."):
            raise UserError(f"--set {setting}: judging again can change keys of quality only")
        _override(data, setting)
    return parse_study(data, f"study {study.name}", Path.cwd())
