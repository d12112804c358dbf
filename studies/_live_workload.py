"""A workload made of live pipelines and a function: written into a folder that trials and bundles can run."""

import hashlib
import inspect
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._errors import UserError
from ._live_copy import check_copy, refuse_adapters
from ._live_switches import switch_statements
from ._source import Source

WORKLOADS = Path("paretune.files") / "workloads"
HEAD = "Written by paretune.workload(): what serves the requests, and how it is loaded."
INSTEAD = "give a function load(device) that makes it in place of the pipelines"


@dataclass(frozen=True)
class LiveWorkload:
    """What `paretune.workload` has written: a study's `workload`."""

    folder: Path
    """It holds workload.py and the weights."""
    requests: tuple[Mapping[str, Any], ...]
    trace: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Its workload.py."""
        return self.folder / "workload.py"

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a study file."""
        trace = {} if self.trace is None else {"trace": self.trace}
        return {"python": str(self.file), "requests": [dict(one) for one in self.requests], **trace, **self.extra}

    def _repr_html_(self) -> str:
        names = ", ".join(str(one.get("name", f"request-{place + 1}")) for place, one in enumerate(self.requests))
        return f"<p>Workload in <code>{self.file}</code>: requests {names}</p>"


def live_workload(
    pipelines: Mapping[str, Any] | Callable[..., Mapping[str, Any]],
    run: Callable[[Mapping[str, Any], Any], Any],
    requests: Sequence[Mapping[str, Any]],
    *,
    trace: Any = None,
    folder: Path | str | None = None,
) -> LiveWorkload:
    """A workload around pipelines that are loaded already and the function that serves a request with them.

    pipelines: {name: diffusers pipeline, model of diffusers or transformers, or torch module that is made without
    arguments}, or a function load(device) that returns such a dict. run(pipelines, request) returns pictures; see
    docs/workload.md. requests, trace: as in a study file. folder: where the weights and the source of both are
    written; by default one in paretune.files/workloads, named after their content. One that holds something else is
    left alone, and refused.

    Trials and bundles run that copy, so what run() uses has to be in it: its source, and that of the functions, classes
    and constants that it names, are found and written. Raises UserError for what has none, with the reason. Of the
    pipelines, weights and configurations are written, and of the session the switches that it has set (TF32, say). They
    are loaded again once, into the memory of the processor, and
    what has become of them is compared: UserError names what would be lost.
    """
    if not isinstance(requests, Sequence) or not all(isinstance(one, Mapping) for one in requests):
        raise UserError('requests has to be a list of mappings, [{"prompt": "a cat", "width_px": 1024, ...}]')
    if not inspect.isfunction(run):
        raise UserError("run has to be a function, run(pipelines, request)")
    if callable(pipelines) and not isinstance(pipelines, Mapping):
        source = Source()
        source.add(pipelines, "load", "paretune.workload()")
        source.add(run, "run", "paretune.workload()")
        return _written(source, run, None, {}, requests, trace, folder)
    if not isinstance(pipelines, Mapping) or not pipelines:
        raise UserError("pipelines has to be {name: pipeline or module}, or a function load(device) that returns that")
    source = Source("load", "__file__")
    parts = {name: _part(name, entry, source) for name, entry in pipelines.items()}
    source.add(run, "run", "paretune.workload()")
    return _written(source, run, pipelines, parts, requests, trace, folder)


def _written(
    source: Source,
    run: Any,
    pipelines: Mapping[str, Any] | None,
    parts: Mapping[str, str],
    requests: Sequence[Mapping[str, Any]],
    trace: Any,
    folder: Path | str | None,
) -> LiveWorkload:
    around = WORKLOADS if folder is None else Path(folder).absolute().parent
    draft = around / f".{uuid.uuid4().hex}"
    draft.mkdir(parents=True)
    try:
        text, head = source.text(), HEAD
        if pipelines is not None:
            text = f"{text}\n\n{_save_and_load(pipelines, parts, draft)}"
            # With it, the file stands for the weights too wherever only it is looked at.
            head = f"{HEAD}\n\nThe files beside it: sha256 {_digest(draft)}.\n"
        file = draft / "workload.py"
        file.write_text(f'"""{head}"""\n\n{text}')
        check_copy(pipelines, file, source)
        key = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        place = Path(folder) if folder is not None else WORKLOADS / f"{run.__name__}-{key}"
        if place.exists() and any(place.iterdir()):
            if _digest(place) != _digest(draft):
                raise UserError(f"{place} holds something else already: name another folder, or remove this one")
        else:
            if place.exists():
                place.rmdir()
            draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return LiveWorkload(place.resolve(), tuple(requests), trace)


def _digest(folder: Path) -> str:
    """Of the names and contents of all files; what Python has compiled does not count."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            with file.open("rb") as content:
                of_one = hashlib.file_digest(content, "sha256").hexdigest()
            digest.update(f"{file.relative_to(folder).as_posix()} {of_one}\n".encode())
    return digest.hexdigest()


def _part(name: str, entry: Any, source: Source) -> str:
    """How an entry is loaded: "pipeline", "model" or "module". Raises UserError where it cannot be."""
    import diffusers
    import torch

    kind = type(entry).__name__
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"the entry {name!r} needs a name that Python could give a variable")
    try:
        refuse_adapters(name, entry)
    except ValueError:  # of diffusers
        raise UserError(f"{name!r} has other components than a {kind} is made of: {INSTEAD}") from None
    if isinstance(entry, diffusers.DiffusionPipeline):
        if getattr(diffusers, kind, None) is not type(entry):
            raise UserError(f"{name!r} is a {kind}, which is not a pipeline of diffusers: {INSTEAD}")
        return "pipeline"
    if not isinstance(entry, torch.nn.Module):
        raise UserError(f"{name!r} is a {kind}, which cannot be written to a file: {INSTEAD}")
    if hasattr(entry, "save_pretrained") and hasattr(type(entry), "from_pretrained"):
        source.add(type(entry), kind, f"the entry {name!r}")
        return "model"
    source.add(type(entry), kind, f"the entry {name!r}")
    try:
        same = type(entry)().state_dict()
    except Exception:
        raise UserError(f"{name!r}, a {kind}, is not made without arguments: {INSTEAD}") from None
    shapes = [{key: tuple(value.shape) for key, value in one.items()} for one in (same, entry.state_dict())]
    if shapes[0] != shapes[1]:
        raise UserError(f"{name!r}, a {kind}, has other weights than one made without arguments: {INSTEAD}")
    return "module"


def _save_and_load(pipelines: Mapping[str, Any], parts: Mapping[str, str], folder: Path) -> str:
    """Write the weights, and return the source of load(). What several pipelines share is written once."""
    from safetensors.torch import save_model

    lines = ["def load(device):"]
    lines += [f"    import {package}" for package in ("diffusers", "safetensors.torch", "torch")]
    lines += ["    from pathlib import Path", "", *(f"    {line}" for line in switch_statements())]
    lines += ["    here = Path(__file__).parent", "    loaded = {}"]
    owners: dict[int, str] = {}
    for name, entry in pipelines.items():
        kind, place = type(entry).__name__, f'here / "{name}"'
        if parts[name] == "pipeline":
            shared = {part: owners[id(one)] for part, one in entry.components.items() if id(one) in owners}
            given = "".join(f", {part}={owner}" for part, owner in shared.items())
            # Some pipelines take it for a mistake that a component is missing, unless they are told.
            given += "".join(f", {part}=None" for part, one in entry.components.items() if one is None)
            own = {part: None if part in shared else one for part, one in entry.components.items()}
            _without(entry, own).save_pretrained(folder / name)
            dtypes = {
                part: str(one.dtype)
                for part, one in own.items()
                if one is not None and hasattr(one, "dtype") and hasattr(one, "parameters")
            }
            if dtypes:
                written = ", ".join(f'"{part}": {dtype}' for part, dtype in dtypes.items())
                default = next(iter(dtypes.values()))
                given += f', dtype={{"default": {default}, {written}}}'
            lines.append(f"    loaded[{name!r}] = diffusers.{kind}.from_pretrained({place}{given}).to(device)")
            lines.append(f"    loaded[{name!r}].set_progress_bar_config(disable=True)")
            for part, one in entry.components.items():
                if one is not None:
                    owners.setdefault(id(one), f'loaded["{name}"].{part}')
        elif id(entry) in owners:
            lines.append(f"    loaded[{name!r}] = {owners[id(entry)]}")
        elif parts[name] == "model":
            entry.save_pretrained(folder / name)
            dtype = str(entry.dtype)
            lines.append(f"    loaded[{name!r}] = {kind}.from_pretrained({place}, dtype={dtype}).to(device).eval()")
        else:
            save_model(entry, str(folder / f"{name}.safetensors"))
            dtype = str(next((weight.dtype for weight in entry.parameters()), "torch.float32"))
            lines.append(f"    loaded[{name!r}] = {kind}().to({dtype})")
            lines.append(f'    safetensors.torch.load_model(loaded[{name!r}], str(here / "{name}.safetensors"))')
            lines.append(f"    loaded[{name!r}].to(device).train({entry.training})")
        owners.setdefault(id(entry), f"loaded[{name!r}]")
    return "\n".join([*lines, "    return loaded"]) + "\n"


def _without(pipeline: Any, components: Mapping[str, Any]) -> Any:
    """A pipeline of the same class with only these components: its other ones are another pipeline's to save."""
    if all(one is pipeline.components[name] for name, one in components.items()):
        return pipeline
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns of components that are missing, as they are meant to be
    try:
        return type(pipeline)(**components)
    finally:
        logging.set_verbosity(before)
