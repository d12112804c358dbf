"""A configuration step by step: what is done to which modules, in what order and why, and the Python that does it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...search_space import (
    Configuration,
    PipelineFacts,
    Role,
    Stage,
    denoisers,
    other_modules,
    technique,
    text_encoders,
    user_modules,
    vaes,
)
from ..results import FailedBefore, Results, failed_before

WHEN = {
    Stage.WEIGHTS: "first, because everything later works on weights of this kind",
    Stage.LAYERS: "before weights are quantized or compiled, which fixes the layers",
    Stage.QUANTIZATION: "before compilation, which would keep the old weights",
    Stage.STRUCTURE: "before compilation, which takes the parts it finds",
    Stage.COMPILATION: "after everything that changes what is computed",
    Stage.WRAPPERS: "after compilation, so that it stays outside of the compiled graphs",
    Stage.PLACEMENT: "last, because the hook that moves a module has to run before everything else",
    Stage.LAST: "after everything that comes with paretune",
}
ROLES: dict[Callable[..., Any], Role] = {
    denoisers: Role.DENOISER,
    vaes: Role.VAE,
    text_encoders: Role.TEXT_ENCODER,
    other_modules: Role.OTHER,
}
"""By which function a technique finds the modules that it acts on."""


@dataclass(frozen=True)
class Explained:
    """One step."""

    technique: str
    axis: str
    parameters: Mapping[str, Any]
    summary: str
    loss: str
    when: str
    """Why it is applied at this place."""
    modules: Mapping[str, str]
    """{"main.unet": "UNet2DConditionModel"}: what it may act on; empty where the pipelines are not known."""
    roles: tuple[str, ...]
    """What such modules are for; empty for what acts on the process or looks for modules itself."""
    source: str
    """Who describes how it works."""
    failed_before: tuple[str, ...]
    """Where it failed on this machine before, alone or together with another technique."""
    code: str
    """The function that apply.py runs."""


def explain(
    configuration: Configuration, pipelines: Mapping[str, PipelineFacts], failed: FailedBefore | None = None
) -> list[Explained]:
    """Every step, in the order of application. pipelines: of the study; {} when there is none. failed: what is
    remembered of this machine.
    """
    steps = []
    for step in configuration.steps:
        known = technique(step.technique)
        roles = [
            role for find, role in ROLES.items() if find in known.helpers and role in known.roles_with(step.parameters)
        ]
        # One that finds both leaves the modules beside the pipelines alone.
        beside = user_modules in known.helpers and other_modules not in known.helpers
        steps.append(
            Explained(
                technique=step.technique,
                axis=str(known.axis),
                parameters=step.values(),
                summary=known.summary,
                loss=str(known.loss_with(step.parameters)),
                when=WHEN[known.stage],
                modules=_modules(pipelines, roles, beside=beside),
                roles=(*map(str, roles), *(["module beside the pipelines"] if beside else [])),
                source=known.source,
                failed_before=() if failed is None else tuple(one.words() for one in failed.with_step(step)),
                code=inspect.getsource(known.apply).rstrip(),
            )
        )
    return steps


def remembered(results: Results) -> FailedBefore:
    """What failed before on a study's machine, with pipelines like its own."""
    pipelines = {name: PipelineFacts.from_dict(facts) for name, facts in results.record.pipelines.items()}
    return failed_before(results.records, results.fingerprint, pipelines)


def _modules(pipelines: Mapping[str, PipelineFacts], roles: list[Role], *, beside: bool) -> dict[str, str]:
    return {
        f"{name}.{module}" if module else name: facts.class_name
        for name, pipeline in pipelines.items()
        for module, facts in pipeline.modules.items()
        if (beside if pipeline.beside else facts.role in roles)
    }


def explanation_lines(configuration: Configuration, steps: list[Explained], *, code: bool) -> list[str]:
    """For the terminal."""
    if not steps:
        return ["The reference: nothing is changed."]
    lines = [f"{configuration}", f"may lose: {configuration.loss}"]
    for number, step in enumerate(steps, start=1):
        values = ", ".join(f"{name}={value}" for name, value in step.parameters.items())
        lines += ["", f"{number}. {step.technique}({values})  [{step.axis}]", f"   {step.summary}"]
        acts_on = [f"{name} ({class_name})" for name, class_name in step.modules.items()]
        acts_on = acts_on or [f"every {role}" for role in step.roles] or ["the whole process"]
        lines.append(f"   acts on: {', '.join(acts_on)}")
        lines += [f"   {words}" for words in step.failed_before]
        lines += [f"   may lose: {step.loss}", f"   at this place: {step.when}", f"   see {step.source}"]
        if code:
            lines += ["", *(f"   | {line}" for line in step.code.splitlines())]
    return lines
