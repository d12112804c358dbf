"""apply.py: a configuration as a plain Python file, written out of the techniques' own source."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ._artefacts import counters, open_artefacts
from ._configuration import Configuration, Step
from ._modules import denoisers, other_modules, text_encoders, torch_modules, user_modules, vaes
from ._standalone import load_portable_cache, start_triton
from ._technique import Technique
from ._techniques import technique
from ._trusted import trusted
from ._watch import applied_once, watch

HEADER = '''"""Applies configuration {key} to diffusers pipelines: {summary}.

    from apply import apply
    apply(pipeline)                              # or apply({{"main": pipeline, "refiner": refiner}})

Needs torch, diffusers{packages}; nothing else. {versions}
Call it once, after loading the pipelines onto their device and before the first request. Changes of the pipelines that
it does not survive end the next call in a RuntimeError that says what to do.
"""

from typing import Any
'''

APPLY = '''

{once}def apply_techniques(pipelines: Any{parameter}) -> None:
    """Apply every technique in order, in place, to {{name: pipeline}}."""
{body}


def apply(
    pipelines: Any,
    artefacts: Any = None,
    *,
    on_miss: str = "compile",
    strict: bool = False,
    trusted_key: Any = None,
) -> None:
    """Change one pipeline, or {{name: pipeline}}, as the configuration says.

{about}
    """
    if not isinstance(pipelines, dict):
        pipelines = {{"main": pipelines}}
{opening}    apply_techniques(pipelines{argument})
'''
OPENING = """\
    loaded = open_artefacts(
        trusted(artefacts, pipelines, on_miss=on_miss, strict=strict, trusted_key=trusted_key), on_miss, strict
    )
"""
WITH_ARTEFACTS = """\
    artefacts: the bundle's folder of that name, with the compiled code; None compiles here. on_miss: what becomes of a
    call that nothing in it was built for: "compile" (eager, while another thread compiles), "eager", or "error".
    counters(pipelines) says how calls were answered.
    Compiled code that was built for another machine, other versions or another model is not used, with one warning that
    names every difference; strict=True makes an error of it. trusted_key: file of a public key; the bundle has to be
    signed with its other half. Damaged, missing, added or wrongly signed files are an error in any case."""
WITHOUT_ARTEFACTS = "    Nothing of it is compiled, so only the first argument means something."

FINDERS: tuple[Callable[..., Any], ...] = (denoisers, vaes, text_encoders, other_modules)
"""A technique changes the modules that those among its helpers find; all of them where it names none."""
ALL_FINDERS = (*FINDERS, user_modules)


def apply_source(configuration: Configuration, versions: Mapping[str, str] | None = None) -> str:
    """The text of apply.py.

    versions: packages it was measured with, for the file's head.
    """
    used = [technique(step.technique) for step in configuration.steps]
    loading = any(known.artefacts for known in used)
    changing = {finder for known in used for finder in set(ALL_FINDERS) & set(known.helpers) or FINDERS}
    finders = [finder for finder in ALL_FINDERS if finder in changing]
    around = [torch_modules, *(FINDERS if other_modules in finders else ()), *finders, watch, applied_once]
    helpers = [function for known in used for function in known.helpers] + (around if used else [])
    helpers += [trusted, load_portable_cache, start_triton, open_artefacts, counters] if loading else []
    functions = _unique(helpers + [known.apply for known in used])
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
    arguments = ", ".join([f'"{configuration.key}"', *(finder.__name__ for finder in finders)])
    once = f"@applied_once({arguments})\n" if calls else ""
    sources = "".join(f"\n\n{inspect.getsource(function).rstrip()}\n" for function in functions)
    return (
        head
        + sources
        + APPLY.format(
            once=once,
            parameter=", loaded: Any" if loading else "",
            body=body,
            about=WITH_ARTEFACTS if loading else WITHOUT_ARTEFACTS,
            opening=OPENING if loading else "",
            argument=", loaded" if loading else "",
        )
    )


def _call(step: Step, known: Technique) -> str:
    arguments = "".join(f", {parameter}={value!r}" for parameter, value in step.values().items())
    arguments += ", artefacts=loaded" if known.artefacts else ""
    return f"    # {known.summary} ({known.loss_with(step.parameters)})\n    {step.technique}(pipelines{arguments})"


def _unique(items: list[Any]) -> list[Callable[..., Any]]:
    return list(dict.fromkeys(items))
