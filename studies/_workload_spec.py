"""The workload's section of a study file."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ._sections import SET_BY_PARETUNE, FilePath, Name, PipelineSpec, RequestSpec, Section, plain
from ._trace import TraceSpec, check_trace, drawn_trace


class WorkloadSpec(Section):
    """What is optimised: diffusers pipelines described here, or a Python file that makes them, and the requests."""

    pipelines: dict[Name, PipelineSpec] | None = None
    """Diffusers pipelines by name, loaded in this order. Give either these or `python`."""
    python: FilePath | None = None
    """A Python file (relative to the study file) with `load(device)` and `run(pipelines, request)`."""
    options: dict[str, Any] = Field(default={})
    """With `python`: given to its `load(device, **options)`; ids and folders of models, say."""
    weights: Literal["pretrained", "random"] = "pretrained"
    """With `python`: `random` says that its pictures mean nothing, so that they are not judged."""
    requests: list[RequestSpec] = Field(min_length=1, max_length=10_000)
    """What production sends."""
    trace: list[Name] | TraceSpec | None = None
    """The order in which it sends them: names of requests (`[plain, ann, ann, plain]`), or `{length, seed, shares}` to
    draw one. All of it is timed, again and again, so that changes of adapters cost what they cost in production. Not
    set, the requests take turns, and their `weight` says how often each comes."""
    size: Name | None = None
    """Which of `sizes` is used."""
    sizes: dict[Name, dict[str, Any]] = Field(default={})
    """`{name: keys of a workload}`: what takes the place of the workload's own keys where `size` names it."""

    @field_validator("options")
    @classmethod
    def _plain(cls, options: dict[str, Any]) -> dict[str, Any]:
        return plain(options)

    @model_validator(mode="after")
    def _one_source(self) -> "WorkloadSpec":
        if (self.pipelines is None) == (self.python is None):
            raise ValueError("give either pipelines or python, one of the two")
        if self.options and self.python is None:
            raise ValueError("options are for a workload in Python, whose load() gets them")
        names = [request.name or f"request-{index + 1}" for index, request in enumerate(self.requests)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two requests are called {twice!r}, and their pictures are kept by that name")
        if self.trace is not None:
            check_trace(self.trace, self._weights)
        if self.pipelines is not None:
            if any(request.adapters for request in self.requests):
                raise ValueError("requests with adapters need a workload in Python, which says how they are loaded")
            for request in self.requests:
                if request.pipeline not in self.pipelines:
                    raise ValueError(f"a request names the pipeline {request.pipeline!r}, which is not described")
                for argument in request.arguments:
                    if argument in SET_BY_PARETUNE:
                        raise ValueError(f"arguments: paretune sets {argument} itself, {SET_BY_PARETUNE[argument]}")
            seen: set[str] = set()
            for name, spec in self.pipelines.items():
                if both := set(spec.share) & set(spec.without):
                    raise ValueError(f"pipeline {name} shares the component {sorted(both)[0]!r} and leaves it out")
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
    def _weights(self) -> dict[str, float]:
        return {one.name or f"request-{index + 1}": one.weight for index, one in enumerate(self.requests)}

    @property
    def trace_names(self) -> list[str]:
        """The names of the requests in the order of the trace; empty without one."""
        return [] if self.trace is None else drawn_trace(self.trace, self._weights)

    @property
    def swaps(self) -> bool:
        """Whether the trace changes adapters from request to request, as the requests declare them."""
        declared = {name: tuple(sorted(r.adapters)) for name, r in zip(self._weights, self.requests, strict=True)}
        return len({declared[name] for name in self.trace_names}) > 1

    @property
    def quality_assessed(self) -> bool:
        """Whether pictures mean anything: not with random weights."""
        if self.pipelines is None:
            return self.weights == "pretrained"
        return all(spec.weights == "pretrained" for spec in self.pipelines.values())


def with_size(workload: Any) -> Any:
    """A workload as it is written, with the keys of the size that it names in the place of its own; options of both.

    Raises ValueError for a size that is not there.
    """
    if not isinstance(workload, Mapping) or not isinstance(workload.get("size"), str):
        return workload  # what is not there or no text is the model's to say
    size, sizes = workload["size"], workload.get("sizes")
    known: Mapping[Any, Any] = sizes if isinstance(sizes, Mapping) else {}
    if not isinstance(known.get(size), Mapping):
        there = f"there are {', '.join(map(str, known))}" if known else "there are none"
        raise ValueError(f"workload.size: there is no size {size!r} under workload.sizes; {there}")
    rest = {name: value for name, value in workload.items() if name not in ("size", "sizes")}
    chosen = dict(known[size])
    if isinstance(rest.get("options"), Mapping) and isinstance(chosen.get("options"), Mapping):
        chosen["options"] = {**chosen["options"], **rest["options"]}
    return {**rest, **chosen}
