"""What a bundle has of a workload: copies of what is small, digests of what is not, and no paths of this machine."""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ._errors import UserError
from ._identity import content_digest, sha256
from ._sections import Name, PipelineSpec
from ._study import Study
from ._workload_spec import WorkloadSpec
from .workload import digest_of, place_of

OWN, CONFIGS = "own", "configs"
"""Folders beside a bundle's workload.json: the user's Python files, and the configurations of random models."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


@dataclass(frozen=True)
class PackedWorkload:
    """A workload, ready to be moved to another machine."""

    description: Mapping[str, Any]
    """The content of workload.json."""
    files: Mapping[str, Path]
    """{path beside workload.json: the file to copy there}."""
    places: Mapping[str, Path]
    """{digest: the folder on this machine that has this content}."""

    def remember(self) -> None:
        """Keep in mind, for this user of this machine, where what is not in the bundle lies."""
        for digest, folder in self.places.items():
            remember_place(digest, folder)


def pack_workload(study: Study) -> PackedWorkload:
    """What a bundle holds of a study's workload. Nothing is written."""
    description = study.workload_description()
    files: dict[str, Path] = {}
    places: dict[str, Path] = {}
    if study.workload.python is not None:
        python = Path(study.workload.python)
        own = own_files(python)
        digests = {name: sha256(file) for name, file in sorted(own.items())}
        description |= {"python": f"{OWN}/{python.name}", "sha256": digests}
        files |= {f"{OWN}/{name}": file for name, file in own.items()}
        places[digest_of(digests)] = python.parent
    for name, spec in (study.workload.pipelines or {}).items():
        packed = description["pipelines"][name]
        packed["config"] = None
        if spec.weights == "random":
            config = Path(str(spec.config))
            packed |= {"model": Path(spec.model).name, "config": f"{CONFIGS}/{name}"}
            files |= {f"{CONFIGS}/{name}/{file.relative_to(config)}": file for file in sorted(config.rglob("*.json"))}
        elif Path(spec.model).is_absolute():
            digest = content_digest(Path(spec.model))
            if digest is None:
                raise UserError(f"study {study.name}: pipeline {name}: the model {spec.model} is gone")
            packed |= {"model": Path(spec.model).name, "digest": digest}
            places[digest] = Path(spec.model)
    return PackedWorkload(description, files, places)


def own_files(python: Path) -> dict[str, Path]:
    """{path relative to its folder: file} of a Python file and of everything that it imports from its own folder.

    Only imports that are written as such are found; what a file reads or imports in other ways is not.
    """
    found = {python.name: python}
    unread = [python]
    while unread:
        for name in sorted(_imported(unread.pop())):
            for file in _module_files(python.parent, name):
                if (relative := str(file.relative_to(python.parent))) not in found:
                    found[relative] = file
                    unread.append(file)
    return found


def remember_place(digest: str, folder: Path) -> None:
    """Make the link that `place_of` names. Where it cannot be made, verifying a bundle will have to be told."""
    link = place_of(digest)
    temporary = link.with_name(f".{digest}.new")
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(folder.absolute())
        temporary.replace(link)
    except OSError:
        return


class PackedPipeline(PipelineSpec):
    """A pipeline in a bundle's workload.json."""

    digest: Digest | None = None
    """Of the model's folder; None for a model of the hub, and with random weights."""


class PackedWorkloadSpec(WorkloadSpec):
    """The content of a bundle's workload.json."""

    schema_version: Literal[1] = Field(alias="schema")
    pipelines: dict[Name, PackedPipeline] | None = None  # type: ignore[assignment]
    sha256: dict[str, str] = Field(default={})
    """Of the Python file and of what it imports from its folder, by their paths there."""

    @model_validator(mode="after")
    def _in_the_bundle(self) -> "PackedWorkloadSpec":
        configs = [spec.config for spec in (self.pipelines or {}).values() if spec.config is not None]
        pictures = [file for one in self.requests for file in (one.image, one.mask_image) if file is not None]
        for path in [*configs, *pictures, *([self.python] if self.python is not None else [])]:
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"{path} is not in the bundle")
        if self.python is not None and PurePosixPath(self.python).name not in self.sha256:
            raise ValueError("the SHA-256 of the Python file is missing")
        return self

    def missing_models(self) -> dict[str, PackedPipeline]:
        """The pipelines whose model is not in the bundle and not known on this machine."""
        named = {name: spec for name, spec in (self.pipelines or {}).items() if spec.digest is not None}
        return {
            name: spec
            for name, spec in named.items()
            if content_digest(place_of(str(spec.digest)).resolve()) != spec.digest
        }


def _imported(file: Path) -> set[str]:
    """The first part of every module's name that a file imports."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return set()
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    return {name.partition(".")[0] for name in names}


def _module_files(folder: Path, name: str) -> Iterator[Path]:
    package = folder / name
    if (package / "__init__.py").is_file() or (package.is_dir() and not _is_installed(name)):
        yield from (file for file in sorted(package.rglob("*.py")) if file.is_file())
    elif (folder / f"{name}.py").is_file():
        yield folder / f"{name}.py"


def _is_installed(name: str) -> bool:
    """Whether a folder without `__init__.py` would lose against a package of that name."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
