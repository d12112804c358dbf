"""What the text encoders say of a negative prompt is kept, and not computed again for the next picture.

Only of the negative one: it is the same in most requests of a product, and seldom what people write. Prompts
themselves could be kept as well, but every study asks for the same few pictures over and over, so that the measured
gain would be one that only those have who repeat their prompts. Whoever does can pass prompt_embeds, as diffusers'
documentation shows.
"""

from collections.abc import Mapping
from typing import Any

from .._call_shape import described_switches, switches
from .._module_state import module_state, weight_writes
from .._modules import text_encoders, torch_modules
from .._target import PipelineFacts, Role, Target
from .._technique import Axis, Loss, NoParameters, Stage, Technique


def prompt_embedding_cache(pipelines: dict[str, Any]) -> None:
    """Keep what encode_prompt() returns for the last sixteen negative prompts, and hand it in again.

    For one number of prompts each, since the same prompt in a batch of another size may have other bits. Forgotten as
    soon as the text encoders or the tokenizers are other ones: weights, adapters and their scales.
    """
    import inspect
    from collections import OrderedDict

    most = 16
    settings_of_tokenizers = ("special_tokens_map", "model_max_length", "padding_side", "truncation_side")
    # Where encode_prompt() returns them: (prompt, negative), or (prompt, negative, pooled prompt, pooled negative).
    negative_names = {"negative_prompt_embeds": 1, "negative_pooled_prompt_embeds": 3}

    def keep_for(pipeline: Any) -> None:
        inner = pipeline.encode_prompt
        signature = inspect.signature(inner)
        encoders = text_encoders({"": pipeline})
        looks = [look(encoder) for encoder in encoders for look in (module_state, weight_writes)]
        tokenizers = [name for name in getattr(pipeline, "components", {}) if name.startswith("tokenizer")]
        counts = pipeline.prompt_embedding_counts = {"computed": 0, "reused": 0}
        kept: OrderedDict[Any, Any] = OrderedDict()
        states: list[Any] = []

        def now() -> list[Any]:
            # The tokenizers themselves: the number of another could be that of one that is gone.
            reading = [tokenizer for name in tokenizers if (tokenizer := getattr(pipeline, name, None)) is not None]
            said = [getattr(tokenizer, name, None) for tokenizer in reading for name in settings_of_tokenizers]
            lengths = [len(tokenizer) for tokenizer in reading if hasattr(tokenizer, "__len__")]
            forwards = [vars(encoder).get("forward") for encoder in encoders]
            return [*(look() for look in looks), *reading, *said, *lengths, *forwards, *switches()]

        def encode_prompt(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            named = bound.arguments
            # One text, or one for each picture of a batch.
            texts = {
                name: (value,) if isinstance(value, str) else tuple(value)
                for name, value in named.items()
                if name.startswith("negative_prompt") and not name.endswith("embeds") and value is not None
            }
            prompt = named.get("prompt")
            if (
                not named.get("do_classifier_free_guidance", False)
                or any(named.get(name) is not None for name in negative_names)
                # Without a text there is nothing to read, or it is read as an empty one: pipelines differ.
                or not texts.get("negative_prompt")
                or not all(isinstance(text, str) for each in texts.values() for text in each)
                or not isinstance(prompt, (str, list))
            ):
                return inner(*args, **kwargs)
            if states != now():
                kept.clear()
            batch = 1 if isinstance(prompt, str) else len(prompt)
            settings = {name: value for name, value in named.items() if isinstance(value, (int, float))}
            key = (batch, tuple(texts.items()), tuple(settings.items()), str(named.get("device")))
            if key in kept:
                kept.move_to_end(key)
                counts["reused"] += 1
                # Copies: who weights embeddings writes into what encode_prompt() has returned.
                given = {name: tensor.clone() for name, tensor in kept[key].items()}
                result = list(inner(**{**named, **given}))
                # What was given may have been repeated for each picture of a prompt once more: pipelines differ.
                for name, value in given.items():
                    result[negative_names[name]] = value
                return tuple(result)
            result = inner(*args, **kwargs)
            # Afterwards: transformers puts hooks of its own on the layers in the first call.
            states[:] = now()
            kept[key] = {
                name: result[at].clone()
                for name, at in negative_names.items()
                if name in named and result[at] is not None
            }
            if len(kept) > most:
                kept.popitem(last=False)
            counts["computed"] += 1
            return result

        pipeline.encode_prompt = encode_prompt

    for pipeline in pipelines.values():
        encode = getattr(pipeline, "encode_prompt", None)
        if encode is not None and "negative_prompt_embeds" in inspect.signature(encode).parameters:
            keep_for(pipeline)


def took_effect(pipelines: dict[str, Any]) -> str | None:
    """Whether a negative prompt was not computed again."""
    counts = [getattr(pipeline, "prompt_embedding_counts", {}) for pipeline in pipelines.values()]
    if any(each.get("reused") for each in counts):
        return None
    return "no negative prompt came twice with the same text encoders"


def refuses(target: Target, pipelines: Mapping[str, PipelineFacts], parameters: NoParameters) -> str | None:
    """Pipelines that read no negative prompt."""
    reading = [pipeline for pipeline in pipelines.values() if pipeline.text_encoders]
    if not reading:
        return "no pipeline has a text encoder"
    if all("Flux" in pipeline.class_name for pipeline in reading):
        return "Flux takes its guidance as a number, without a negative prompt"
    if not any(pipeline.guided for pipeline in reading):
        return "no request uses guidance, and only then is a negative prompt read"
    return None


TECHNIQUE = Technique(
    name="prompt_embedding_cache",
    axis=Axis.CACHING,
    loss=Loss.BIT_IDENTICAL,
    summary="Keeps what the text encoders say of a negative prompt, for requests that have the same one.",
    source="https://huggingface.co/docs/diffusers/main/en/using-diffusers/weighted_prompts",
    parameters=NoParameters,
    apply=prompt_embedding_cache,
    took_effect=took_effect,
    refuses=refuses,
    stage=Stage.WRAPPERS,
    roles=frozenset({Role.TEXT_ENCODER}),
    helpers=(torch_modules, text_encoders, module_state, weight_writes, switches, described_switches),
)
