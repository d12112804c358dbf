"""apply.py: a configuration as a plain Python file, written out of the techniques' own source."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ._configuration import Configuration, Step
from ._technique import Technique
from ._techniques import technique

HEADER = '''"""Applies configuration {key} to diffusers pipelines: {summary}.

    from apply import apply
    apply(pipeline)                              # or apply({{"main": pipeline, "refiner": refiner}})

Needs torch, diffusers{packages}; nothing else. {versions}
Call it once, after loading the pipelines onto their device and before the first request.
"""

from typing import Any
'''

APPLY = '''

def apply(pipelines: Any) -> None:
    """Apply every technique in order, in place, to one pipeline or to {{name: pipeline}}."""
    if not isinstance(pipelines, dict):
        pipelines = {{"main": pipelines}}
{body}
'''


def apply_source(configuration: Configuration, versions: Mapping[str, str] | None = None) -> str:
    """The text of apply.py.

    versions: packages it was measured with, for the file's head.
    """
    used = [technique(step.technique) for step in configuration.steps]
    functions = _unique([function for known in used for function in known.helpers] + [known.apply for known in used])
    needed = [p for step in configuration.steps for p in technique(step.technique).packages_with(step.parameters)]
    packages = "".join(f", {package}" for package in _unique(needed))
    measured = ", ".join(f"{name} {version}" for name, version in (versions or {}).items())
    head = HEADER.format(
        key=configuration.key,
        summary=configuration,
        packages=packages,
        versions=f"Measured with {measured}." if measured else "",
    )
    calls = [_call(step, technique(step.technique)) for step in configuration.steps]
    body = "\n".join(calls) if calls else "    # The reference: nothing is changed."
    sources = "".join(f"\n\n{inspect.getsource(function).rstrip()}\n" for function in functions)
    return head + sources + APPLY.format(body=body)


def _call(step: Step, known: Technique) -> str:
    arguments = "".join(f", {parameter}={value!r}" for parameter, value in step.values().items())
    return f"    # {known.summary} ({known.loss_with(step.parameters)})\n    {step.technique}(pipelines{arguments})"


def _unique(items: list[Any]) -> list[Callable[..., Any]]:
    return list(dict.fromkeys(items))
