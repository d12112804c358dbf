"""Study files: one YAML file that says everything about a search, checked when it is read."""

import difflib
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from ..search_space import Configuration, PipelineFacts, SearchSpace, Target, default_space, load_techniques
from ._errors import UserError
from ._places import resolve_paths, short, there
from ._reading import MOST_DEPTH, UnreadableError, read_yaml, read_yaml_file
from ._sections import (
    Budget,
    Deadlines,
    Finalists,
    Limits,
    Measurement,
    Name,
    Objective,
    OnceEach,
    Quality,
    Sampler,
    Section,
    Space,
)
from ._workload_spec import WorkloadSpec, with_size
from .workload import Request, request_of

SCHEMA_VERSION = 1
STEADY_STATE = ("recompiles", "recaptures")
BUILT_IN = Path(__file__).parent
"""Where the study files that come with paretune lie."""


def _this_schema(value: Any) -> Any:
    if type(value) is int and value > SCHEMA_VERSION:
        raise ValueError(f"{_shown(value)} is of a newer version of paretune, this one reads {SCHEMA_VERSION}")
    if type(value) is not int or value != SCHEMA_VERSION:
        raise ValueError(f"should be {SCHEMA_VERSION}, not {_shown(value)}")
    return value


class Study(Section):
    """A whole study file."""

    schema_version: Annotated[Literal[1], BeforeValidator(_this_schema)] = Field(alias="schema")
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
    objectives: OnceEach[Objective] = Field(default=["latency_ms", "peak_vram_gib", "drift"], min_length=1)
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
    price_per_gpu_hour: float | None = Field(default=None, gt=0, le=1e9)
    """Turns latency into cost per 1,000 images, in whatever currency the price is."""
    deadlines_s: Deadlines = Deadlines()
    """After how many seconds a trial that hangs is killed, phase by phase."""
    sampler: Sampler = Sampler()
    """How configurations are proposed."""
    host_memory_gib: float | None = Field(default=None, gt=0, le=1e6)
    """A trial that uses more GiB of main memory is killed and fails as `oom`; not set, 90 % of what is free when it
    starts."""

    @property
    def optimised(self) -> list[str]:
        """The objectives that can be measured: drift needs pictures that mean something."""
        return [name for name in self.objectives if name != "drift" or self.workload.quality_assessed]

    def bound(self, figure: str) -> float | None:
        """The most of a figure that is acceptable: its limit, and 0 for what is compiled or recorded anew in the steady
        state of a trace that changes adapters; None when it is not limited.
        """
        limit = self.limits.of(figure)
        return 0.0 if limit is None and figure in STEADY_STATE and self.workload.swaps else limit

    def with_(self, settings: Mapping[str, Any] | None = None, **sections: Any) -> "Study":
        """Another study: this one with some keys changed, checked anew.

        settings: {"budget.trials": 12, "workload.requests.0.steps": 20}; sections: whole keys of the file, where a
        mapping changes the keys that it has and keeps the others (`limits={"verdict": "visible"}`, `name="mine"`).
        Raises UserError.
        """
        data = self.model_dump(by_alias=True, mode="json")
        for name, value in sections.items():
            known = data.get(name)
            data[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, Mapping) else value
        if not isinstance(settings, Mapping | None):
            raise UserError('with_() takes {"budget.trials": 12}, a mapping from keys of the study to values')
        for key, value in (settings or {}).items():
            _set(data, str(key), value, str(key))
        return parse_study(data, f"{self.name}.with_()", Path.cwd())

    def _repr_html_(self) -> str:
        return f'<pre style="max-height: 24em; overflow: auto">{html.escape(self.to_yaml())}</pre>'

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
        return [request_of(described, Path()) for described in self.workload_description()["requests"]]

    def workload_description(self) -> dict[str, Any]:
        """The content of workload.json (see studies/workload.py)."""
        requests = []
        for index, request in enumerate(self.workload.requests):
            plain = _as_described(request, "image", "mask_image")
            requests.append({**plain, "name": request.name or f"request-{index + 1}"})
        description: dict[str, Any] = {"schema": 1, "requests": requests}
        if names := self.workload.trace_names:
            description["trace"] = names
        if self.workload.python is not None:
            description["python"] = self.workload.python
            if self.workload.options:
                description["options"] = dict(self.workload.options)
            if self.workload.weights != "pretrained":
                description["weights"] = self.workload.weights
        else:
            pipelines = self.workload.pipelines or {}
            description["pipelines"] = {name: _as_described(spec, "without") for name, spec in pipelines.items()}
        return description

    def input_files(self) -> list[str]:
        """The pictures that requests begin with, each once."""
        named = [file for one in self.workload.requests for file in (one.image, one.mask_image) if file is not None]
        return list(dict.fromkeys(named))


def built_in_studies() -> list[str]:
    """Names of the studies that come with paretune."""
    return sorted(path.stem for path in BUILT_IN.glob("*.yaml"))


FORMER_KEYS = (("quality", "benign_floor", "reordering_floor"), ("measurement", "floor_rounds", None))
"""Section, the name that a key had, and the one that it has; None where it means nothing any more."""


def read_study(name_or_path: str, settings: list[str] | None = None) -> Study:
    """Read a study by the name of one that comes with paretune, or from a file.

    settings: "a.b=value" overrides, the value written as YAML. Relative paths in the file are taken from its folder.
    Raises UserError.
    """
    path = Path(name_or_path)
    if not path.suffix and name_or_path in built_in_studies():
        path = BUILT_IN / f"{name_or_path}.yaml"
    if not there(path, Path.is_file):
        known = ", ".join(built_in_studies())
        raise UserError(
            f"there is no study {_shown(name_or_path)}: give a study file, or one that comes with paretune ({known})"
        )
    try:
        data = read_yaml_file(path)
    except UnreadableError as error:
        raise UserError(f"{path} {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a study file: it should be a mapping with the keys schema, name and workload")
    # What is set by hand stands above what a size has.
    of_size = [setting for setting in settings or [] if setting.startswith("workload.size")]
    for setting in of_size:
        override(data, setting)
    data = _sized(data, str(path))
    for setting in settings or []:
        if setting not in of_size:
            override(data, setting)
    return parse_study(data, str(path), path.resolve().parent)


def parse_study(data: Mapping[str, Any], where: str, folder: Path) -> Study:
    """Check the content of a study file; relative paths are taken from `folder`, and its techniques are loaded.

    Raises UserError, naming the key and what was expected.
    """
    try:
        study = Study.model_validate(_sized(_with_todays_names(data), where))
    except ValidationError as error:
        raise UserError(f"{where}: {sentence_of(error)}") from None
    study = resolve_paths(study, folder)
    study.load_techniques()
    study.search_space()
    study.presets()
    return study


def _with_todays_names(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """A study's content where files of the same schema version may still have former names of keys."""
    for section, former, today in FORMER_KEYS:
        kept = data.get(section)
        if isinstance(kept, dict) and former in kept and today not in kept:
            renamed = {today: kept[former]} if today else {}
            data = {**data, section: {**{key: kept[key] for key in kept if key != former}, **renamed}}
    return data


def _sized(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A study's content with the size of its workload in place. Raises UserError for a size that is not there."""
    try:
        return {**data, "workload": with_size(data["workload"])} if "workload" in data else dict(data)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def override(data: dict[str, Any], setting: str) -> None:
    """Set one key of a study file's content, "a.b=value" with the value in YAML. Raises UserError."""
    key, separator, text = setting.partition("=")
    if not separator or not key:
        raise UserError(f"--set {short(setting)}: write it as key.subkey=value")
    try:
        value = read_yaml(text)
    except UnreadableError as error:
        raise UserError(f"--set {short(setting)}: the value {error}") from None
    _set(data, key, value, f"--set {short(setting)}")


def _set(data: dict[str, Any], key: str, value: Any, said: str) -> None:
    """Set "a.b" of a study file's content. said: what a UserError begins with."""
    node: Any = data
    *parents, last = key.split(".")
    if len(parents) >= MOST_DEPTH:
        raise UserError(f"{said}: no key of a study lies so deep")
    for part in parents:
        node = _item(node, part, said) if isinstance(node, list) else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise UserError(f"{said}: {short(part)} is not a section of the study")
    if isinstance(node, list):
        _item(node, last, said)
        node[int(last)] = value
    else:
        node[last] = value


def _item(items: list[Any], part: str, said: str) -> Any:
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(items):
        raise UserError(f"{said}: {_shown(part)} is not one of the {len(items)} items, which are counted from 0")
    return items[int(part)]


def sentence_of(error: ValidationError, *where: str) -> str:
    """The first of a model's errors: the key, where it lies, and what it should be."""
    first = error.errors(include_url=False)[0]
    location = short(".".join(str(part) for part in (*where, *first["loc"]) if part != "[key]"))
    if first["type"] == "extra_forbidden":
        if first["input"] is None and first["loc"][:2] == ("workload", "pipelines"):
            return f"unknown key '{location}'; a component is left out with without: [{location.rpartition('.')[2]}]"
        known = {f.alias or name for section in _sections_of(Section) for name, f in section.model_fields.items()}
        close = difflib.get_close_matches(str(first["loc"][-1]), sorted(known), n=1)
        return f"unknown key '{location}'" + (f"; did you mean {close[0]!r}?" if close else "")
    if first["type"] == "missing":
        return f"the key '{location}' is missing"
    if first["type"] == "value_error":
        return f"{location or 'the study'}: {first['msg'].removeprefix('Value error, ')}"
    message = first["msg"]
    return f"{location or 'the study'}: {message[0].lower()}{message[1:]}, not {_shown(first.get('input'))}"


def _sections_of(base: type[Section]) -> list[type[Section]]:
    return [found for section in base.__subclasses__() for found in (section, *_sections_of(section))]


def _shown(value: Any) -> str:
    """A value as it is written in Python, or what it is when that is long."""
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"a long {type(value).__name__}" if isinstance(value, str) else "that"


def _as_described(section: Section, *optional: str) -> dict[str, Any]:
    """As plain data; optional: keys that are left out where they are not set, as workloads before them had none."""
    plain = section.model_dump(by_alias=True, mode="json")
    return {key: value for key, value in plain.items() if value or key not in optional}
