"""What has to stay the same when a study is continued, and the lock that keeps a second launcher out."""

import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...studies import Study, StudyRecord, UserError
from ...studies._sections import Quality
from ..trial.files import sha256
from ..trial.folder import PICTURES, trial_folder


def workload_key(study: Study) -> str:
    """Of everything that the workload is and is judged with, the content of a user's own Python files included.

    In two parts, because judging again changes the second one only.
    """
    return f"{_workload_digest(study)}-{_judging_digest(study)}"


def _workload_digest(study: Study) -> str:
    own = [*study.space.files, *([study.workload.python] if study.workload.python is not None else [])]
    data = {
        **study.workload_description(),
        "sha256": {file: sha256(Path(file)) for file in own},
        "models": {spec.model: _content_digest(Path(spec.model)) for spec in (study.workload.pipelines or {}).values()},
    }
    return _digest(data)[:16]


def _judging_digest(study: Study) -> str:
    data = {
        "sha256": {file: sha256(Path(file)) for file in study.quality.files},
        "weights": {name: _content_digest(Path(path)) for name, path in study.quality.weights.items()},
    }
    return _digest(data)[:8]


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def same_workload(record: StudyRecord, study: Study) -> bool:
    """Whether the pipelines, the requests and the Python files are what was measured, however pictures are judged."""
    return record.workload_key.partition("-")[0] == _workload_digest(study)


SAMPLE_BYTES = 1 << 16


def _content_digest(place: Path) -> str | None:
    """Of a model's file or folder: every file's name, size, beginning and end. None for a model of the hub.

    Not of every byte, because that takes half a minute for SDXL at each launch; weights that differ do so everywhere.
    """
    folder = place.parent if place.is_file() else place
    found = [place] if place.is_file() else place.rglob("*")
    files = sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)
    if not files:
        return None
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as content:
            beginning = content.read(SAMPLE_BYTES)
            content.seek(max(0, size - SAMPLE_BYTES))
            digest.update(f"{file.relative_to(folder)} {size} ".encode() + beginning + content.read())
    return digest.hexdigest()[:16]


def refuse_changes(record: StudyRecord | None, study: Study) -> None:
    """A study is continued only as what it was. Raises UserError."""
    if record is None:
        return
    before = Study.model_validate(record.study)
    hint = f"study {study.name} exists with {{}}: launch this one under another --name"
    if before.optimised != study.optimised:
        raise UserError(hint.format(f"other objectives ({', '.join(before.optimised)})"))
    if not same_workload(record, study):
        raise UserError(hint.format("another workload or changed Python files"))
    if before.space.model_dump(exclude={"presets"}) != study.space.model_dump(exclude={"presets"}):
        raise UserError(hint.format("another search space"))
    if before.limits != study.limits:
        raise UserError(hint.format("other limits"))
    if before.measurement != study.measurement:
        raise UserError(hint.format("other measurement settings"))
    if before.quality != study.quality:
        as_judged = " ".join(f"--set {setting}" for setting in changed_settings(study.quality, before.quality))
        as_asked = " ".join(f"--set {setting}" for setting in changed_settings(before.quality, study.quality))
        raise UserError(
            f"study {study.name} exists with pictures judged in another way: launch it with {as_judged}, "
            f"or judge what there is as this launch would, by paretune judge {study.name} {as_asked}"
        )
    if record.workload_key != workload_key(study):
        raise UserError(
            f"the metrics or weights that judge study {study.name} have changed: paretune judge {study.name} "
            "judges its pictures by those of now"
        )
    if not (trial_folder(Path(record.files), 0) / PICTURES).is_dir():
        raise UserError(f"the files of study {study.name} are gone from {record.files}: give this one its own --name")


def changed_settings(before: Quality, after: Quality) -> list[str]:
    """What turns one way to judge into another, as a shell wants it behind --set."""
    values = [_flat(quality.model_dump(mode="json")) for quality in (before, after)]
    changed = [name for name, value in values[1].items() if value != values[0][name]]
    return [shlex.quote(f"quality.{name}={json.dumps(values[1][name])}") for name in changed]


def _flat(quality: dict[str, Any]) -> dict[str, Any]:
    counts = {f"pictures.{name}": count for name, count in quality.pop("pictures").items()}
    return {**counts, **quality}


@contextmanager
def only_launcher(folder: Path, name: str, doing: str = "launched") -> Iterator[None]:
    """Hold the study's lock; the system lets go of it however this process ends. Raises UserError when it is held.

    doing: what is being done with the study, for whoever comes second.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made ({error.strerror}): choose another --storage") from None
    with (folder / "launch.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(f"study {name} is being {lock.read().strip()} already") from None
        lock.truncate(0)
        lock.write(f"{doing} by process {os.getpid()}")
        lock.flush()
        yield
