"""Study files: one YAML file that says everything about a search, checked when it is read."""

import ast
import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..search_space import Configuration, SearchSpace, load_techniques
from ._errors import UserError

SCHEMA_VERSION = 1
BUILT_IN = Path(__file__).parent
"""Where the study files that come with paretune lie."""

PLAIN_STATEMENTS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.Expr)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
Objective = Literal["latency_ms", "peak_vram_gib", "drift", "cold_start_s"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PipelineSpec(_Section):
    """A diffusers pipeline: its class, its weights, and the modules it shares with a pipeline written above it."""

    class_name: str = Field(alias="class")
    model: str
    """A folder (relative to the study file) or a model id of the hub."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """"random" builds the full-size model from `config`: real latency and memory, no quality."""
    config: str | None = None
    """Folder with the published configuration, for random weights."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    variant: str | None = None
    revision: str | None = None
    share: dict[str, str] = {}
    """{component: pipeline}: take this component from that pipeline instead of loading it again."""


class RequestSpec(_Section):
    """One call as production makes it."""

    name: Name | None = None
    pipeline: str = "main"
    prompt: str
    negative_prompt: str | None = None
    width_px: int = Field(gt=0, multiple_of=8)
    height_px: int = Field(gt=0, multiple_of=8)
    batch: int = Field(default=1, ge=1)
    steps: int = Field(ge=1)
    guidance: float = Field(default=5.0, ge=0)
    seed: int = 0
    weight: float = Field(default=1.0, gt=0)
    adapters: list[str] = []
    arguments: dict[str, Any] = {}

    @field_validator("arguments")
    @classmethod
    def _plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(arguments, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("numbers (finite ones), texts, lists and mappings only") from None
        return arguments


class WorkloadSpec(_Section):
    """What is optimised: diffusers pipelines described here, or a Python file that makes them, and the requests."""

    pipelines: dict[Name, PipelineSpec] | None = None
    python: str | None = None
    """A Python file (relative to the study file) with load(device) and run(pipelines, request)."""
    requests: list[RequestSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> "WorkloadSpec":
        if (self.pipelines is None) == (self.python is None):
            raise ValueError("give either pipelines or python, not both and not neither")
        names = [request.name or f"request-{index + 1}" for index, request in enumerate(self.requests)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two requests are called {twice!r}, and their pictures are kept by that name")
        if self.pipelines is not None:
            if any(request.adapters for request in self.requests):
                raise ValueError("requests with adapters need a workload in Python, which says how they are loaded")
            for request in self.requests:
                if request.pipeline not in self.pipelines:
                    raise ValueError(f"a request names the pipeline {request.pipeline!r}, which is not described")
            seen: set[str] = set()
            for name, spec in self.pipelines.items():
                missing = set(spec.share.values()) - seen
                if missing:
                    raise ValueError(
                        f"pipeline {name} shares with {sorted(missing)[0]!r}, which is not written above it"
                    )
                if spec.weights == "random" and spec.config is None:
                    raise ValueError(
                        f"pipeline {name} has random weights, so it needs config: the configuration's folder"
                    )
                seen.add(name)
        return self

    @property
    def quality_assessed(self) -> bool:
        """Whether pictures mean anything: not with random weights."""
        return self.pipelines is None or all(spec.weights == "pretrained" for spec in self.pipelines.values())


class Space(_Section):
    """Which techniques may be used; by default all, with all their choices."""

    techniques: dict[str, dict[str, Any] | None] | None = None
    presets: list[list[dict[str, dict[str, Any] | None]]] = []
    """Configurations to measure first, each a list of techniques."""
    files: list[str] = []
    """Python files (relative to the study file) with techniques of your own."""


class Limits(_Section):
    """What a configuration has to keep to be acceptable; the sampler learns from what breaks it."""

    latency_ms: float | None = Field(default=None, gt=0)
    peak_vram_gib: float | None = Field(default=None, gt=0)
    cold_start_s: float | None = Field(default=None, gt=0)
    verdict: Literal["bit-exact", "imperceptible", "near-lossless", "visible"] | None = None


class Budget(_Section):
    """When to stop: after so many measured trials, or so many minutes, whichever comes first."""

    trials: int = Field(default=40, ge=1)
    minutes: float | None = Field(default=None, gt=0)


class Measurement(_Section):
    """How each trial is measured."""

    calls: int = Field(default=5, ge=5)
    """Timed calls per shape of request, at least; every request is run at least once."""
    warm_up_calls: int = Field(default=2, ge=1)
    """Calls per shape before timing; the first is the cold one."""


class Deadlines(_Section):
    """Seconds that each phase of a trial may take before it is killed."""

    start: float = Field(default=120, gt=0)
    load: float = Field(default=600, gt=0)
    apply: float = Field(default=300, gt=0)
    first_call: float = Field(default=900, gt=0)
    warm_up: float = Field(default=300, gt=0)
    measure: float = Field(default=300, gt=0)
    memory: float = Field(default=120, gt=0)
    judge: float = Field(default=120, gt=0)


class Sampler(_Section):
    """Optuna's TPE sampler, multivariate and grouped."""

    seed: int = 0
    startup_trials: int = Field(default=8, ge=1)


class Study(_Section):
    """A whole study file."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Name
    description: str = ""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    workload: WorkloadSpec
    space: Space = Space()
    torch_compile_baseline: bool = True
    """Measure torch.compile as people use it today, also where the space leaves it out: reports compare with it."""
    objectives: list[Objective] = Field(default=["latency_ms", "peak_vram_gib", "drift"], min_length=1)
    limits: Limits = Limits()
    budget: Budget = Budget()
    measurement: Measurement = Measurement()
    deadlines_s: Deadlines = Deadlines()
    sampler: Sampler = Sampler()
    host_memory_gib: float | None = Field(default=None, gt=0)
    """A trial that uses more main memory than this is an `oom`; by default 90 % of what is free at its start."""

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
        """The space the file asks for. Raises UserError."""
        try:
            techniques = self.space.techniques
            return SearchSpace.of(None if techniques is None else {k: v or {} for k, v in techniques.items()})
        except ValueError as error:
            raise UserError(f"study {self.name}: {error}") from None

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
        _override(data, setting)
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


def _override(data: dict[str, Any], setting: str) -> None:
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
        known = {f.alias or name for section in _Section.__subclasses__() for name, f in section.model_fields.items()}
        close = difflib.get_close_matches(str(first["loc"][-1]), sorted(known), n=1)
        return f"unknown key {location!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    if first["type"] == "missing":
        return f"the key {location!r} is missing"
    if first["type"] == "value_error":
        return f"{location or 'the study'}: {first['msg'].removeprefix('Value error, ')}"
    message = first["msg"]
    return f"{location or 'the study'}: {message[0].lower()}{message[1:]}, not {_shown(first.get('input'))}"


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
