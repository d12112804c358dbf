"""The files of a bundle that are read, as they have to be: whatever came from outside is checked here, before use."""

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...objectives.verdict import Verdict
from ...studies import UnreadableError, UserError, read_json

MOST_BYTES = 1 << 30
"""Of any file in a bundle."""
MOST_TEXT_BYTES = 64 << 20
"""Of one that is read whole."""
MOST_YAML_BYTES = 256 << 10
"""Of configuration.yaml, which has a line or two for each technique: reading YAML takes seconds for a MiB."""
MOST_NESTED = 20
MOST_PIXELS = 1 << 26
"""Of a picture: 8192 x 8192."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Content(BaseModel):
    """A part of one of these files. What is not read may be anything."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


C = TypeVar("C", bound=BaseModel)


class MachineFacts(Content):
    """objectives.fingerprint.Fingerprint, as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1]
    device_kind: Literal["cuda", "cpu"]
    device_name: str
    compute_capability: str | None
    memory_gib: Finite | None
    driver: str | None
    cuda: str | None
    python: str
    platform: str
    cpu_model: str
    cpu_threads: int
    packages: dict[str, str | None]


class Floor(Content):
    """The noise floor, as it is stored."""

    schema_version: Literal[1] = 1
    processes: Annotated[int, Field(ge=2)]
    floors: dict[str, Share]
    values: dict[str, list[Finite]]


class Called(Content):
    """How the study measured."""

    calls: Annotated[int, Field(ge=1, le=100_000)]
    most_calls: Annotated[int, Field(ge=1, le=100_000)]
    most_seconds: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
    warm_up_calls: Annotated[int, Field(ge=1, le=100_000)]


class Figures(Content):
    """The figures that are compared, of the evidence and of the process that repeats it."""

    latency_ms: Annotated[float, Field(gt=0, le=1e8, allow_inf_nan=False)]
    peak_vram_gib: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class Quality(Content):
    """The judgement on the pictures."""

    verdict: Annotated[Verdict, Field(strict=False)]


class Measurements(Content):
    """What was measured of a trial, as far as it is compared."""

    quality: Quality


class TrialEvidence(Content):
    """The exported trial."""

    figures: Figures
    measurements: Measurements


class WayEvidence(Content):
    """One way to keep compiled code (ways.Way), as far as it is compared."""

    name: Annotated[str, Field(max_length=100)]
    failed: str | None = None
    captures: Annotated[int, Field(ge=0)] | None = None


class ArtefactEvidence(Content):
    """What was found of the artefacts when they were built."""

    ways: Annotated[list[WayEvidence], Field(max_length=100)] = []
    """The one that was kept first."""


class Evidence(Content):
    """The content of evidence/measurements.json, as far as it is compared."""

    schema_version: Literal[4] = Field(alias="schema")
    measurement: Called
    noise_floor: Floor | None
    trial: TrialEvidence
    artefacts: ArtefactEvidence | None = None


class ConfigurationText(Content):
    """The content of configuration.yaml. Its techniques may be ones that are not known here: apply.py has them all."""

    schema_version: Literal[1] = Field(alias="schema")
    techniques: list[dict[str, dict[str, Any]]]


def read_whole(file: Path, most_bytes: int = MOST_TEXT_BYTES) -> bytes:
    """A file's content. Raises UserError for what is no plain file, is too large, or cannot be read."""
    try:
        # Not waiting for the other end of a pipe, and not through a link.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{file} is not a file")
            if found.st_size > most_bytes:
                raise UserError(f"{file} is larger than {most_bytes >> 10} KiB: export the bundle again")
            return opened.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({getattr(error, 'strerror', None) or error})") from None


def parse_json(model: type[C], content: bytes, file: Path, *, schema: int | None = None) -> C:
    """A file's content, checked. Raises UserError, which names the file and the key.

    schema: of this version, where another one is to be said rather than what it lacks.
    """
    try:
        data = read_json(content.decode())
    except UnicodeDecodeError:
        raise UserError(f"{file} is damaged: export the bundle again (it is not JSON)") from None
    except UnreadableError as error:
        raise UserError(f"{file} is damaged: export the bundle again (it {error})") from None
    return parse_plain(model, data, file, schema=schema)


def parse_yaml(model: type[C], content: bytes, file: Path) -> C:
    """The same for YAML. Aliases are refused: a few lines of them stand for more than any memory holds."""
    depth = 0
    try:
        for event in yaml.parse(content, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{file} is damaged: export the bundle again (it has aliases)")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_NESTED:
                raise UserError(f"{file} is damaged: export the bundle again (it is nested too deeply)")
        data = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{file} is damaged: export the bundle again (it is not YAML)") from None
    return parse_plain(model, data, file)


def parse_plain(model: type[C], data: Any, file: Path, *, schema: int | None = None) -> C:
    """Plain data, checked; `file` is where it comes from. Raises UserError."""
    if schema is not None and isinstance(data, dict) and data.get("schema", schema) != schema:
        raise UserError(
            f"{file} has schema {_shown(data['schema'])}; this version reads {schema}: export the bundle again"
        )
    try:
        return model.model_validate(data)
    except (ValidationError, RecursionError) as error:
        raise UserError(f"{file} is damaged: export the bundle again ({_reason(error)})") from None


def check_picture(content: bytes, file: Path) -> tuple[int, int]:
    """(width, height) in px of a file that is a whole PNG of a size that can be a picture. Raises UserError."""
    import io
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise UserError(f"{file} is damaged: export the bundle again ({image.width} x {image.height})")
                image.load()
                return image.width, image.height
    except UserError:
        raise
    except Exception:  # Pillow's decoders raise whatever they stumble over
        raise UserError(f"{file} is damaged: export the bundle again (it is not a picture)") from None


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "it is nested too deeply"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(str(part)[:60] for part in first["loc"][:6])
    message = str(first["msg"]).removeprefix("Value error, ")[:200]
    words = " ".join(message.split())
    return f"{key}: {words[0].lower()}{words[1:]}" if key else f"{words[0].lower()}{words[1:]}"


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, int | float | str | bool) or value is None else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]} ..."
