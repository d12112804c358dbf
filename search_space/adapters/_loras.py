"""What the techniques for LoRAs have in common."""

from collections.abc import Mapping
from typing import Any

from .._modules import denoisers, text_encoders, torch_modules
from .._target import PipelineFacts, Target
from .._technique import Parameters
from .._turns import take_turns
from .._visits import LORA


def refuses_without_loras(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: Parameters) -> str | None:
    """Workloads in which no LoRA comes or goes."""
    if not any(pipeline.denoisers for pipeline in pipelines.values()):
        return "no pipeline has a denoiser"
    kind = LORA.removesuffix(":")
    if not any(pipeline.adapters and kind in pipeline.adapter_kinds for pipeline in pipelines.values()):
        return "no request loads or unloads a LoRA"
    return None


def refuse_lora_methods(technique: str, owner: Any) -> None:
    """Let the methods of a pipeline, or of one of its modules, by which LoRAs are driven end in a RuntimeError: they
    know nothing of a LoRA that a technique has put elsewhere. Also what pipelines made later do goes through those of
    the modules. What the technique puts in the place of some is put there afterwards.
    """
    names = ["fuse_lora", "unfuse_lora", "disable_lora", "enable_lora", "disable_adapters", "enable_adapters"]
    names += ["set_adapters", "set_adapter", "delete_adapters", "delete_adapter", "set_lora_device"]
    names += ["load_lora_weights", "load_lora_adapter", "load_adapter", "add_adapter", "load_attn_procs"]

    def refusing(name: str) -> Any:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(
                f"{technique}: {name}() of {type(owner).__name__} does not go with it: use load_lora_weights(), "
                "set_adapters() and unload_lora_weights() of the pipelines that apply() was given, or leave "
                f"{technique} out"
            )

        return refuse

    # Past __setattr__, by which pipelines register components.
    vars(owner).update({name: refusing(name) for name in names if hasattr(owner, name)})


def put_in_place(technique: str, pipeline: Any, denoiser: Any, others: list[Any], ways: dict[str, Any]) -> None:
    """Have a pipeline's LoRAs go the technique's ways, {name of a method: what takes its place}, and no other.

    others: modules whose own methods are refused.
    """
    import types

    def bound(way: Any, owner: Any) -> Any:
        """As a method, of which a deep copy makes one of its own: what it changes is this owner's all the same."""

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self is not owner:
                raise RuntimeError(
                    f"{technique}: this {type(self).__name__} is a copy of one that apply() was given, and LoRAs would "
                    "go into the weights of that one; load a pipeline anew and call apply() on it"
                )
            return way(*args, **kwargs)

        return types.MethodType(call, owner)

    for owner in (pipeline, *others):
        refuse_lora_methods(technique, owner)
    vars(pipeline).update({name: bound(way, pipeline) for name, way in ways.items()})
    # This is what pipelines that are made later call to unload.
    vars(denoiser)["unload_lora"] = bound(ways["unload_lora_weights"], denoiser)


def refuse_other_loras(technique: str, modules: list[Any], own: str = "", *, applying: bool = False) -> None:
    """RuntimeError where a module has another LoRA than the technique's own: it would neither be unloaded nor scaled.

    own: what peft calls the technique's. applying: whether there is none of the technique's yet.
    """
    instead = (
        "call unload_lora_weights() before apply(), after fuse_lora() where it is to stay"
        if applying
        else "load the pipeline anew, and LoRAs by load_lora_weights() only"
    )
    for module in modules:
        if set(getattr(module, "peft_config", None) or ()) - {own}:
            raise RuntimeError(
                f"{technique}: {type(module).__name__} has a LoRA that {technique} did not load; {instead}"
            )


LORA_HELPERS = (
    torch_modules,
    denoisers,
    text_encoders,
    take_turns,
    refuse_lora_methods,
    refuse_other_loras,
    put_in_place,
)
"""What both take along into apply.py."""
