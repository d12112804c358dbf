"""Study files: one YAML file that says everything about a search, checked when it is read."""

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from ..search_space import Configuration, PipelineFacts, SearchSpace, Target, default_space, load_techniques
from ._errors import UserError
from ._sections import (
    Budget,
    Deadlines,
    Finalists,
    Limits,
    Measurement,
    Name,
    Objective,
    Quality,
    Sampler,
    Section,
    Space,
    WorkloadSpec,
)
from .workload import Request

SCHEMA_VERSION = 1
BUILT_IN = Path(__file__).parent
"""Where the study files that come with paretune lie."""

PLAIN_STATEMENTS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr)


class Study(Section):
    """A whole study file."""

    schema_version: Literal[1] = Field(alias="schema")
    """Version of this format."""
    name: Name
    """What the study is called in the database, in commands and in reports."""
    description: str = ""
    """A sentence for whoever reads the report."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where to run; `auto` takes the GPU where there is one."""
    workload: WorkloadSpec
    """What is optimised: pipelines and the requests they serve."""
    space: Space = Space()
    """Which techniques may be used."""
    lossless: bool = False
    """Search only what loses nothing but rounding: techniques that compute the same (bit-identical) or the same in
    another order (reordered). `paretune techniques` says which these are. Of presets, those that approximate are left
    out."""
    torch_compile_baseline: bool = True
    """Measure torch.compile as people use it today, even if the space leaves it out: reports compare with it. It is
    the first trial after the reference, unless the presets give it another place."""
    objectives: list[Objective] = Field(default=["latency_ms", "peak_vram_gib", "drift"], min_length=1)
    """What to minimise; the Pareto front is drawn over these. `drift` is left out where pictures are not judged."""
    limits: Limits = Limits()
    """What a configuration has to keep to be acceptable."""
    budget: Budget = Budget()
    """When to stop searching."""
    measurement: Measurement = Measurement()
    """How each trial is measured."""
    finalists: Finalists = Finalists()
    """How the best are confirmed."""
    quality: Quality = Quality()
    """How pictures are judged."""
    price_per_gpu_hour: float | None = Field(default=None, gt=0)
    """Turns latency into cost per 1,000 images, in whatever currency the price is."""
    deadlines_s: Deadlines = Deadlines()
    """After how many seconds a trial that hangs is killed, phase by phase."""
    sampler: Sampler = Sampler()
    """How configurations are proposed."""
    host_memory_gib: float | None = Field(default=None, gt=0)
    """A trial that uses more GiB of main memory is killed and fails as `oom`; not set, 90 % of what is free when it
    starts."""

    @property
    def optimised(self) -> list[str]:
        """The objectives that can be measured: drift needs pictures that mean something."""
        return [name for name in self.objectives if name != "drift" or self.workload.quality_assessed]

    def load_techniques(self) -> None:
        """Make the study's own techniques known to this process. Raises UserError."""
        for file in self.space.files:
            try:
                load_techniques(Path(file))
            except ValueError as error:
                raise UserError(f"study {self.name}: {error}") from None

    def search_space(self) -> SearchSpace:
        """The space the file asks for, whatever the device. Raises UserError."""
        try:
            techniques = self.space.techniques
            return SearchSpace.of(None if techniques is None else {k: v or {} for k, v in techniques.items()})
        except ValueError as error:
            raise UserError(f"study {self.name}: {error}") from None

    def search_space_on(
        self, target: Target, pipelines: Mapping[str, PipelineFacts]
    ) -> tuple[SearchSpace, dict[str, str]]:
        """What can be searched on a device with these pipelines, and the reasons of what is left out.

        A study that names no techniques searches what the device gains from. Raises UserError.
        """
        asked = self.search_space()
        space, not_offered = default_space(target) if self.space.techniques is None else (asked, {})
        space, lossy = space.lossless() if self.lossless else (space, {})
        space, impossible = space.possible(target, pipelines)
        return space, not_offered | lossy | impossible

    def presets(self) -> list[Configuration]:
        """The configurations to measure first. Raises UserError."""
        try:
            return [
                Configuration.of([(name, values or {}) for entry in preset for name, values in entry.items()])
                for preset in self.space.presets
            ]
        except ValueError as error:
            raise UserError(f"study {self.name}, presets: {error}") from None

    def to_yaml(self) -> str:
        """The study with everything resolved."""
        return yaml.safe_dump(self.model_dump(by_alias=True, mode="json"), sort_keys=False, allow_unicode=True)

    def requests(self) -> list[Request]:
        """What the workload asks for, without loading it."""
        described = self.workload_description()["requests"]
        return [Request(**{**request, "adapters": tuple(request.get("adapters", ()))}) for request in described]

    def workload_description(self) -> dict[str, Any]:
        """The content of workload.json (see studies/workload.py)."""
        requests = []
        for index, request in enumerate(self.workload.requests):
            requests.append({**request.model_dump(mode="json"), "name": request.name or f"request-{index + 1}"})
        description: dict[str, Any] = {"schema": 1, "requests": requests}
        if self.workload.python is not None:
            description["python"] = self.workload.python
        else:
            pipelines = self.workload.pipelines or {}
            description["pipelines"] = {k: p.model_dump(by_alias=True, mode="json") for k, p in pipelines.items()}
        return description


def built_in_studies() -> list[str]:
    """Names of the studies that come with paretune."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


def read_study(name_or_path: str, settings: list[str] | None = None) -> Study:
    """Read a study by the name of one that comes with paretune, or from a file.

    settings: "a.b=value" overrides, the value written as YAML. Relative paths in the file are taken from its folder.
    Raises UserError.
    """
    path = Path(name_or_path)
    if not path.suffix and name_or_path in built_in_studies():
        path = BUILT_IN / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(built_in_studies())
        raise UserError(
            f"there is no study {name_or_path!r}: give a study file, or one that comes with paretune ({known})"
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a study file: it should be a mapping with the keys schema, name and workload")
    for setting in settings or []:
        override(data, setting)
    return parse_study(data, str(path), path.resolve().parent)


def parse_study(data: Mapping[str, Any], where: str, folder: Path) -> Study:
    """Check the content of a study file; relative paths are taken from `folder`, and its techniques are loaded.

    Raises UserError, naming the key and what was expected.
    """
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {_sentence(error)}") from None
    study = _resolve_paths(study, folder)
    study.load_techniques()
    study.search_space()
    study.presets()
    return study


def override(data: dict[str, Any], setting: str) -> None:
    """Set one key of a study file's content, "a.b=value" with the value in YAML. Raises UserError."""
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set {setting}: write it as key.subkey=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {setting}: the value is not YAML") from None
    node: Any = data
    *parents, last = key.split(".")
    for part in parents:
        node = _item(node, part, setting) if isinstance(node, list) else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise UserError(f"--set {setting}: {part} is not a section of the study")
    if isinstance(node, list):
        _item(node, last, setting)
        node[int(last)] = value
    else:
        node[last] = value


def _item(items: list[Any], part: str, setting: str) -> Any:
    if not part.isdecimal() or int(part) >= len(items):
        raise UserError(f"--set {setting}: {part!r} is not one of the {len(items)} items, which are counted from 0")
    return items[int(part)]


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = {f.alias or name for section in _sections_of(Section) for name, f in section.model_fields.items()}
        close = difflib.get_close_matches(str(first["loc"][-1]), sorted(known), n=1)
        return f"unknown key {location!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if first["type"] == "missing":
        return f"the key {location!r} is missing"
    if first["type"] == "value_error":
        return f"{location or 'the study'}: {first['msg'].removeprefix('Value error, ')}"
    message = first["msg"]
    return f"{location or 'the study'}: {message[0].lower()}{message[1:]}, not {_shown(first.get('input'))}"


def _sections_of(base: type[Section]) -> list[type[Section]]:
    return [found for section in base.__subclasses__() for found in (section, *_sections_of(section))]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _check_python_workload(file: Path) -> None:
    """Read it without running it: what it needs may be missing in this process, and it loads a model."""
    try:
        statements = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"the workload file {file} is not Python: {error}") from None
    bound = {alias.asname or alias.name for s in statements if isinstance(s, ast.ImportFrom) for alias in s.names}
    bound |= {s.name for s in statements if isinstance(s, ast.FunctionDef)}
    bound |= {target.id for s in statements for target in getattr(s, "targets", []) if isinstance(target, ast.Name)}
    for function in ("load(device)", "run(pipelines, request)"):
        # Anything but plain statements may bind names too, and then only running the file can tell.
        plain = all(isinstance(s, PLAIN_STATEMENTS) for s in statements)
        if plain and "*" not in bound and function.partition("(")[0] not in bound:
            raise UserError(f"the workload file {file} has no function {function}")


def _resolve_paths(study: Study, folder: Path) -> Study:
    files = [str((folder / file).resolve()) for file in study.space.files]
    study = study.model_copy(update={"space": study.space.model_copy(update={"files": files})})
    study = study.model_copy(update={"quality": _resolve_quality(study, folder)})
    workload = study.workload
    if workload.python is not None:
        file = (folder / workload.python).resolve()
        if not file.is_file():
            raise UserError(f"study {study.name}: the workload file {file} does not exist")
        _check_python_workload(file)
        return study.model_copy(update={"workload": workload.model_copy(update={"python": str(file)})})
    pipelines = {}
    for name, spec in (workload.pipelines or {}).items():
        update: dict[str, Any] = {}
        if spec.config is not None:
            config = (folder / spec.config).resolve()
            if not (config / "model_index.json").is_file():
                raise UserError(f"study {study.name}: pipeline {name}: {config} has no model_index.json")
            update["config"] = str(config)
        local = (folder / Path(spec.model).expanduser()).resolve()
        if local.is_dir():
            if spec.weights == "pretrained" and not (local / "model_index.json").is_file():
                raise UserError(f"study {study.name}: pipeline {name}: the folder {local} has no model_index.json")
            update["model"] = str(local)
        elif spec.weights == "pretrained" and (spec.model.startswith((".", "/", "~")) or spec.model.count("/") != 1):
            raise UserError(f"study {study.name}: pipeline {name}: there is no model folder {local}")
        pipelines[name] = spec.model_copy(update=update)
    return study.model_copy(update={"workload": workload.model_copy(update={"pipelines": pipelines})})


def _resolve_quality(study: Study, folder: Path) -> Quality:
    weights = {name: (folder / Path(path).expanduser()).resolve() for name, path in study.quality.weights.items()}
    for name, path in weights.items():
        if not path.exists():
            raise UserError(f"study {study.name}: quality.weights.{name}: there is no {path}")
    files = [(folder / file).resolve() for file in study.quality.files]
    for file in files:
        if not file.is_file():
            raise UserError(f"study {study.name}: quality.files: there is no {file}")
    return study.quality.model_copy(
        update={"weights": {name: str(path) for name, path in weights.items()}, "files": list(map(str, files))}
    )
