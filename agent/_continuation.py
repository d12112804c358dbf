"""What has to stay the same when a study is continued, and the lock that keeps a second launcher out."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..studies import Study, StudyRecord, UserError
from ._files import sha256
from ._trial_folder import PICTURES, trial_folder


def workload_key(study: Study) -> str:
    """Of everything that the workload is and is judged with, the content of a user's own Python files included."""
    own = [*study.space.files, *([study.workload.python] if study.workload.python is not None else [])]
    data = {
        **study.workload_description(),
        "sha256": {file: sha256(Path(file)) for file in [*own, *study.quality.files]},
        "weights": {name: _content_digest(Path(path)) for name, path in study.quality.weights.items()},
        "models": {spec.model: _content_digest(Path(spec.model)) for spec in (study.workload.pipelines or {}).values()},
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


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
    if record.workload_key != workload_key(study):
        raise UserError(hint.format("another workload or changed Python files"))
    if before.space.model_dump(exclude={"presets"}) != study.space.model_dump(exclude={"presets"}):
        raise UserError(hint.format("another search space"))
    if before.limits != study.limits:
        raise UserError(hint.format("other limits"))
    if before.measurement != study.measurement:
        raise UserError(hint.format("other measurement settings"))
    if before.quality != study.quality:
        raise UserError(hint.format("pictures judged in another way"))
    if not (trial_folder(Path(record.files), 0) / PICTURES).is_dir():
        raise UserError(f"the files of study {study.name} are gone from {record.files}: give this one its own --name")


@contextmanager
def only_launcher(folder: Path, name: str) -> Iterator[None]:
    """Hold the study's lock; the system lets go of it however this process ends. Raises UserError when it is held."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made ({error.strerror}): choose another --storage") from None
    with (folder / "launch.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(f"study {name} is being launched by process {lock.read().strip()} already") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
