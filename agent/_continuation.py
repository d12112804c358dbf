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
    """Of everything that the workload is, the content of a user's own Python files included."""
    own = [*study.space.files, *([study.workload.python] if study.workload.python is not None else [])]
    data = {
        **study.workload_description(),
        "sha256": {file: sha256(Path(file)) for file in own},
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


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
