"""The folder of one trial: everything that is needed to repeat it, and what came out."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ... import studies
from ...objectives import measuring
from .files import write_json, write_text

MEASURING = "measuring"
"""The folder, and the module, of the copied package."""
LOG, RESULT, PHASES = "log.txt", "result.json", "phases.jsonl"
INPUTS = "inputs"
"""Pictures that requests begin with."""
PICTURES, LATENTS, COMPILED = "pictures", "latents", "compiled"
KEPT = (LOG, RESULT, PHASES, PICTURES, LATENTS)
"""What a trial leaves; everything else in its folder was there before, or was compiled."""


def trial_folder(files: Path, number: int) -> Path:
    """Where a study's trial lies; the reference is number 0."""
    return files / f"trial-{number:04d}"


def run_folder(files: Path, kind: str, session: int, position: int) -> Path:
    """Where a process beside the trials leaves its files: "floor-00-003"."""
    return files / "runs" / f"{kind}-{session:02d}-{position:03d}"


def forget_compiled(folder: Path) -> None:
    """Remove what a trial compiled, which can be hundreds of megabytes."""
    shutil.rmtree(folder / COMPILED, ignore_errors=True)


def forget_all_compiled(files: Path) -> None:
    """The same for every trial of a study, including those of killed launches."""
    for folder in files.glob("trial-*"):
        forget_compiled(folder)


def write_scripts(folder: Path, workload: Mapping[str, Any]) -> None:
    """Write run.py, workload.py, workload.json with the pictures it names, and the package `measuring`: together they
    can run any apply.py.
    """
    (folder / MEASURING).mkdir(parents=True, exist_ok=True)
    described, pictures = portable_workload(workload)
    write_json(folder / "workload.json", described)
    for name, file in pictures.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(file, folder / name)
    shutil.copyfile(Path(__file__).with_name("script.py"), folder / "run.py")
    shutil.copyfile(Path(str(studies.__file__)).with_name("workload.py"), folder / "workload.py")
    for source in Path(str(measuring.__file__)).parent.glob("*.py"):
        shutil.copyfile(source, folder / MEASURING / source.name)


def portable_workload(workload: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """A workload's description with its pictures named by their content, and {that name: the file}."""
    requests, files = [], {}
    for request in workload["requests"]:
        requests.append(dict(request))
        for key in ("image", "mask_image"):
            if (named := request.get(key)) is not None:
                file = Path(named)
                requests[-1][key] = f"{INPUTS}/{studies.sha256(file)[:16]}{file.suffix.lower()}"
                files[requests[-1][key]] = file
    return {**workload, "requests": requests}, files


def load_measuring(folder: Path) -> ModuleType:
    """Import a folder's own copy of the package `measuring`: a trial runs what lies beside its apply.py."""
    return measuring.load_file(folder / MEASURING / "__init__.py", MEASURING)


def write_trial_folder(
    folder: Path, configuration: Mapping[str, Any], workload: Mapping[str, Any], apply_py: str
) -> None:
    """A fresh trial folder: the scripts, configuration.yaml and the apply.py that the trial runs."""
    shutil.rmtree(folder, ignore_errors=True)
    write_scripts(folder, workload)
    write_text(folder / "configuration.yaml", yaml.safe_dump(dict(configuration), sort_keys=False))
    write_text(folder / "apply.py", apply_py)
