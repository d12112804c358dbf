"""The folder of one trial: everything that is needed to repeat it, and what came out."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import objectives, studies
from ..search_space import Configuration, apply_source
from ._files import write_json, write_text

SCRIPT = Path(__file__).with_name("trial_script.py")
LOG, RESULT, PHASES, PICTURES = "log.txt", "result.json", "phases.jsonl", "pictures"


def trial_folder(files: Path, number: int) -> Path:
    """Where a study's trial lies; the reference is number 0."""
    return files / f"trial-{number:04d}"


def write_scripts(folder: Path, workload: Mapping[str, Any]) -> None:
    """run.py, workload.py, workload.json, latency.py, memory.py: what measures any apply.py."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "workload.json", workload)
    package = {
        name: Path(str(module.__file__)).parent for name, module in (("objectives", objectives), ("studies", studies))
    }
    for source, name in (
        (SCRIPT, "run.py"),
        (package["studies"] / "workload.py", "workload.py"),
        (package["objectives"] / "latency.py", "latency.py"),
        (package["objectives"] / "memory.py", "memory.py"),
    ):
        shutil.copyfile(source, folder / name)


def write_trial_folder(
    folder: Path, configuration: Configuration, workload: Mapping[str, Any], versions: Mapping[str, str]
) -> None:
    """A fresh trial folder: the scripts, configuration.yaml and the apply.py that the trial runs."""
    shutil.rmtree(folder, ignore_errors=True)
    write_scripts(folder, workload)
    write_text(folder / "configuration.yaml", configuration.to_yaml())
    write_text(folder / "apply.py", apply_source(configuration, versions))
