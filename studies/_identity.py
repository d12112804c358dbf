"""What makes a workload the same: the content of everything that is run and judged with, not only its names."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ._study import Study
from ._tables import StudyRecord

SAMPLE_BYTES = 1 << 16


def workload_key(study: Study) -> str:
    """Stands for the workload and everything that judges it, including the content of a user's own Python files.

    In two parts, because judging again changes only the second one.
    """
    return f"{_workload_digest(study)}-{_judging_digest(study)}"


def same_workload(record: StudyRecord, study: Study) -> bool:
    """Whether the pipelines, the requests and the Python files are what was measured, however pictures are judged."""
    return record.workload_key.partition("-")[0] == _workload_digest(study)


def sha256(file: Path) -> str:
    """Hex digest of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _sha256_if_there(file: Path) -> str | None:
    # One that is gone has changed, like one with another content.
    return sha256(file) if file.is_file() else None


def _workload_digest(study: Study) -> str:
    own = [*study.space.files, *([study.workload.python] if study.workload.python is not None else [])]
    data = {
        **study.workload_description(),
        "sha256": {file: _sha256_if_there(Path(file)) for file in (*own, *study.input_files())},
        "models": {spec.model: content_digest(Path(spec.model)) for spec in (study.workload.pipelines or {}).values()},
    }
    return _digest(data)[:16]


def _judging_digest(study: Study) -> str:
    data: dict[str, Any] = {
        "sha256": {file: _sha256_if_there(Path(file)) for file in study.quality.files},
        "weights": {name: content_digest(Path(path)) for name, path in study.quality.weights.items()},
    }
    if study.quality.near_lossless:
        data["near_lossless"] = dict(study.quality.near_lossless)
    return _digest(data)[:8]


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def content_digest(place: Path) -> str | None:
    """Digest of a model's file or folder: every file's name, size, beginning and end. None for a model of the hub.

    Not every byte, because that takes half a minute for SDXL at each launch, and different weights differ everywhere.
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
