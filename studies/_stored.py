"""What a row of our tables has to look like: checked where it is read, because others can write there too."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from sqlalchemy import inspect

from ..objectives.fingerprint import Fingerprint
from ..objectives.verdict import Verdict
from ..search_space import PipelineFacts
from ._errors import UserError
from ._reading import UnreadableError, read_json
from ._stored_visits import Swaps, Visit
from ._study import Study, sentence_of
from ._tables import (
    SCHEMA_VERSION,
    Base,
    ChoiceRecord,
    Outcome,
    RatingRecord,
    RunKind,
    RunRecord,
    StudyRecord,
    StudyRunRecord,
)

RATINGS = ("better", "same", "worse")


class Unreadable:
    """Stands in a record where the database has text that is no JSON."""

    def __init__(self, why: str) -> None:
        self.why = why


def from_json(text: Any) -> Any:
    """How the database's JSON is read: its value, or why it has none."""
    try:
        return read_json(text)
    except UnreadableError as error:
        return Unreadable(str(error))
    except TypeError:
        return Unreadable("is not JSON")


def _time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


def _place(text: str) -> str:
    if "\0" in text or len(text) > 4096 or any(len(part.encode()) > 255 for part in text.split("/")):
        raise ValueError("no path of a folder")
    return text


Place = Annotated[str, AfterValidator(_place)]
Time = Annotated[str, AfterValidator(_time)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class _Stored(BaseModel):
    """Of JSON: what is read has its type; other keys may be there."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)


class _Shape(_Stored):
    """The timed calls of the requests that cost the same."""

    requests: list[str] = Field(min_length=1)
    weight: NotNegative
    n: Annotated[int, Field(ge=1)]
    median_ms: Positive
    min_ms: Positive
    max_ms: Positive
    interval: NotNegative
    stop: Literal["interval", "time", "calls", "dominated"]
    throttled_ms: list[float]
    throttled: list[str]


class _Process(_Stored):
    name: str
    pid: int
    used_gib: float | None


class _Cpu(_Stored):
    foreign_share: float | None


class _Machine(_Stored):
    gpu_utilization_percent: float | None
    clock_event_reasons: dict[str, float]
    foreign_gpu_processes: list[_Process]
    cpu: _Cpu


_QUIET = _Machine(
    gpu_utilization_percent=None, clock_event_reasons={}, foreign_gpu_processes=[], cpu=_Cpu(foreign_share=None)
)


class _Memory(_Stored):
    source: str


class _Stage(_Stored):
    wall_ms: float
    gpu_ms: float | None = None
    steps: int = 0
    median_step_ms: float = 0.0
    peak_gib: NotNegative | None = None


class _Stages(_Stored):
    """One call, split."""

    requests: list[str]
    total_ms: Positive
    other_ms: float
    stages: dict[str, _Stage]


class _Busy(_Stored):
    """What the GPU did in one call."""

    busy_ms: NotNegative


class _Sides(_Stored):
    candidate: float
    reference: float


class _Picture(_Stored):
    file: Annotated[str, Field(pattern=r"^[^/~]+(~[0-9]+)?-[0-9]+\.png$")]
    request: str
    verdict: Verdict
    drift: NotNegative
    metrics: dict[str, float | None]
    flags: list[str]
    broken: str | None
    quality: dict[str, _Sides] = {}


class _Quality(_Stored):
    verdict: Verdict
    drift: NotNegative | None
    pictures: list[_Picture]
    evidence: str = ""
    not_assessed: dict[str, str] = {}


class _Judged(_Stored):
    """More pictures, or the same ones judged again."""

    quality: _Quality


class _Reordered(_Stored):
    """Pictures with the arithmetic in another order, summed up."""

    class Quality(_Stored):
        n: Count
        verdict: Verdict
        drift: NotNegative
        worst_metrics: dict[str, float | None]

    variant: str
    quality: Quality


class _Timed(_Stored):
    """A process beside the trials."""

    latency_ms: Positive
    machine: _Machine = _QUIET
    latency: list[_Shape] = []


class _Floor(_Timed):
    peak_vram_gib: Positive
    cold_start_s: Positive


class _Trial(_Floor):
    latency_per_image_ms: Positive
    setup_peak_vram_gib: NotNegative
    machine: _Machine
    latency: list[_Shape]
    memory: _Memory
    repeat_max_difference: NotNegative
    stages: list[_Stages] = []
    gpu_busy: list[_Busy] = []
    quality: _Quality
    drift: NotNegative | None
    energy_j: NotNegative | None = None
    visits: dict[str, list[Visit]] = {}
    recompiles: Count = 0
    recaptures: Count = 0
    swap_stall_ms: NotNegative | None = None
    swaps: Swaps | None = None
    dominated_by: int | None = None


class _ColdStart(_Stored):
    interpreter_s: NotNegative
    import_s: NotNegative
    load_s: NotNegative
    apply_s: NotNegative
    first_image_s: NotNegative
    cold_start_s: Positive
    way: str | None = None
    """In which the compiled code was kept that it loaded; None where it compiled what it had to."""


class _Incomplete(_Stored):
    """Of a process that failed: as far as it came."""

    quality: _Quality = _Quality(verdict=Verdict.NOT_ASSESSED, drift=None, pictures=[])


_MEASURED: dict[str, type[_Stored]] = {
    RunKind.TRIAL: _Trial,
    RunKind.FLOOR: _Floor,
    RunKind.CANARY: _Timed,
    RunKind.BLOCK: _Timed,
    RunKind.ABLATION: _Timed,
    RunKind.PICTURES: _Judged,
    RunKind.REJUDGE: _Judged,
    RunKind.COLD_START: _ColdStart,
    RunKind.REORDERING: _Reordered,
}


class _Row(_Stored):
    schema_version: int


class _StudyRow(_Row):
    name: str
    created_at: Time
    study: Study
    workload_key: str
    fingerprint: Fingerprint
    import_s: NotNegative
    files: Annotated[Place, Field(min_length=1)]
    space: dict[str, dict[str, list[bool | int | float | str | None]]]
    left_out: dict[str, str]
    pipelines: dict[str, PipelineFacts]


class _OfTrial(_Row):
    trial: Count


class _RunRow(_OfTrial):
    kind: RunKind
    workload_key: str
    configuration_key: str
    configuration: dict[str, Any]
    fingerprint_key: str
    worker: str
    study: str
    session: int
    position: int
    outcome: Outcome
    reason: str
    log_tail: str
    measurements: dict[str, Any]
    phases_s: dict[str, NotNegative]
    apply_py: str
    folder: Place
    finished_at: str

    @field_validator("finished_at")
    @classmethod
    def _trials_have_an_age(cls, text: str, row: ValidationInfo) -> str:
        return _time(text) if row.data.get("kind") is RunKind.TRIAL else text


class _RatingRow(_OfTrial):
    picture: str
    rating: Literal[RATINGS]  # type: ignore[valid-type]
    rater: str
    rated_at: Time


class _ChoiceRow(_OfTrial):
    note: str
    chosen_by: str
    chosen_at: Time


_ROWS: dict[type[Base], type[_Stored]] = {
    StudyRecord: _StudyRow,
    RunRecord: _RunRow,
    StudyRunRecord: _OfTrial,
    RatingRecord: _RatingRow,
    ChoiceRecord: _ChoiceRow,
}
R = TypeVar("R", bound=Base)


def checked(record: R, database: Callable[[], str]) -> R:
    """The record, as it is. database: what it is called in a sentence.

    Raises UserError, with the table and the row, for one that this version of paretune would not have written.
    """
    values = {column.key: getattr(record, column.key) for column in inspect(type(record)).columns}

    def row() -> str:
        (key,) = inspect(type(record)).primary_key_from_instance(record)
        return f"row {key!r} of {record.__tablename__} in {database()}"

    version = values["schema_version"]
    if type(version) is int and version != SCHEMA_VERSION:
        which = "a newer" if version > SCHEMA_VERSION else "an earlier"
        raise UserError(
            f"{row()} is of {which} version of paretune (schema {version}, this one reads {SCHEMA_VERSION}): "
            "use that version, or name another --storage"
        )
    for key, value in values.items():
        if isinstance(value, Unreadable):
            raise UserError(_damaged(row(), f"{key} {value.why}"))
    try:
        _validate(_ROWS[type(record)], values)
        if isinstance(record, RunRecord):
            _validate(_MEASURED[record.kind] if record.complete else _Incomplete, record.measurements, "measurements")
    except _MismatchError as error:
        raise UserError(_damaged(row(), str(error))) from None
    return record


def stored_study(record: StudyRecord) -> Study:
    """The study file of a record that was checked."""
    return TypeAdapter(Study).validate_json(json.dumps(record.study))


class _MismatchError(Exception):
    """The key, and what is wrong with it."""


def _validate(model: type[_Stored], values: dict[str, Any], *where: str) -> None:
    try:
        # As JSON, so that strict types leave room for what JSON has no types for.
        model.model_validate_json(json.dumps(values))
    except (ValidationError, RecursionError) as error:
        said = sentence_of(error, *where) if isinstance(error, ValidationError) else "it is nested too deeply"
        raise _MismatchError(said) from None
    except (TypeError, ValueError) as error:  # a blob where text belongs
        raise _MismatchError(str(error)) from None


def _damaged(row: str, what: str) -> str:
    return (
        f"{row} is not as paretune writes it ({what}): another program has changed it; restore the database from a "
        "copy, or name another --storage"
    )
