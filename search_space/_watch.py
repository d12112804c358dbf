"""How an applied configuration notices that it was applied before, or that the pipelines were changed since.

These functions are exported: `watch` with the techniques that name it in their `helpers` (together with
`torch_modules`), and `applied_once` with every apply.py that changes anything.
"""

from typing import Any

from ._modules import torch_modules


def watch(pipelines: dict[str, Any], holds: Any) -> None:
    """Ask `holds` before each call of a module of the pipelines.

    holds() returns None, or in a sentence why what was applied no longer has its effect, or makes another picture; the
    call then ends in a RuntimeError with that sentence. It runs before every denoising step, so it takes microseconds
    and never waits for the device.

    The modules are the pipelines' own, and the decoders of VAEs, which pipelines call past the VAE itself: one of them
    is called in every picture, also where a denoiser was compiled in place (`unet.compile()`), which leaves hooks out,
    or where another denoiser has taken its place.
    """
    import torch

    def ask(module: Any, arguments: Any) -> None:
        if not torch.compiler.is_compiling() and (reason := holds()) is not None:
            raise RuntimeError(reason)

    found = [module for pipeline in pipelines.values() for module in torch_modules(pipeline).values()]
    found += [module.decoder for module in found if isinstance(getattr(module, "decoder", None), torch.nn.Module)]
    for module in {id(module): module for module in found}.values():
        module.register_forward_pre_hook(ask)


def applied_once(configuration: str, *finders: Any) -> Any:
    """Decorates the apply_techniques() of a configuration, which changes the modules that `finders` find.

    A module that it changes is marked: RuntimeError where one has a mark already, because most techniques cannot be
    applied twice. From then on, a call of pipelines that have another module in its place ends in a RuntimeError too.
    """
    import functools

    def changed(pipelines: dict[str, Any]) -> list[Any]:
        return [module for find in finders for module in find(pipelines)]

    def mark(modules: list[Any]) -> None:
        for module in modules:
            before = getattr(module, "applied_configuration", None)
            if before is not None:
                raise RuntimeError(
                    f"apply() was called before with this {type(module).__name__}, for configuration {before}. Load "
                    "the pipelines anew and call apply() once, with all pipelines that share modules: "
                    'apply({"main": pipeline, "other": other})'
                )
        for module in modules:
            module.applied_configuration = configuration

    def still_there(pipelines: dict[str, Any], modules: list[Any]) -> Any:
        places = [
            (pipeline, name, module)
            for pipeline in pipelines.values()
            for name, module in torch_modules(pipeline).items()
            if any(module is one for one in modules) and name and getattr(pipeline, name, None) is module
        ]

        def holds() -> str | None:
            for pipeline, name, module in places:
                found = getattr(pipeline, name, None)
                # What wraps the module, a compiler say, still calls it; a pipeline may do without one for a while.
                if found is not module and found is not None and all(part is not module for part in found.modules()):
                    return (
                        f"the pipeline has another {name} than the one that apply() changed: load the pipeline anew "
                        "with the one you want, and then call apply()"
                    )
            return None

        return holds

    def decorate(apply: Any) -> Any:
        @functools.wraps(apply)
        def once(pipelines: dict[str, Any], *args: Any) -> None:
            mark(changed(pipelines))
            apply(pipelines, *args)
            watch(pipelines, still_there(pipelines, changed(pipelines)))

        return once

    return decorate
