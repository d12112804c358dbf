"""What may not change when a study is continued, and the sentences that say so."""

import json
import shlex
from pathlib import Path
from typing import Any

from ...studies import Quality, Study, StudyRecord, UserError, same_workload, stored_study, workload_key


def refuse_changes(record: StudyRecord | None, study: Study) -> None:
    """A study is continued only unchanged. Raises UserError for anything else."""
    if record is None:
        return
    before = stored_study(record)
    spaces = [(one.lossless, one.space.model_dump(exclude={"presets", "recipes"})) for one in (before, study)]
    for words, changed in (
        (f"other objectives ({', '.join(before.optimised)})", before.optimised != study.optimised),
        ("another workload or changed Python files", not same_workload(record, study)),
        ("another search space", spaces[0] != spaces[1]),
        ("other limits", before.limits != study.limits),
        ("other measurement settings", before.measurement != study.measurement),
    ):
        if changed:
            raise UserError(f"study {study.name} exists with {words}: launch this one under another --name")
    if before.quality != study.quality:
        as_judged = _options(changed_settings(study.quality, before.quality))
        as_asked = _options(changed_settings(before.quality, study.quality))
        raise UserError(
            f"study {study.name} exists with pictures judged in another way: launch it with {as_judged}, "
            f"or judge its stored pictures again first: paretune judge {study.name} {as_asked}"
        )
    if record.workload_key != workload_key(study):
        raise UserError(
            f"the metrics or weights that judge study {study.name} have changed: "
            f"paretune judge {study.name} judges its pictures again"
        )
    if not Path(record.files).is_dir():
        raise UserError(f"the files of study {study.name} are gone from {record.files}: give this one its own --name")


def changed_settings(before: Quality, after: Quality) -> list[str]:
    """The keys of quality that differ, with their new values, as --set takes them."""
    values = [_flat(quality.model_dump(mode="json")) for quality in (before, after)]
    changed = [name for name, value in values[1].items() if value != values[0][name]]
    return [f"quality.{name}={json.dumps(values[1][name])}" for name in changed]


def _options(settings: list[str]) -> str:
    """For a shell."""
    return " ".join(f"--set {shlex.quote(setting)}" for setting in settings)


def _flat(quality: dict[str, Any]) -> dict[str, Any]:
    counts = {f"pictures.{name}": count for name, count in quality.pop("pictures").items()}
    return {**counts, **quality}
