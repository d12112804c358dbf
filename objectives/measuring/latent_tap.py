"""Keeps the latents that a pipeline decodes."""

from collections.abc import Callable, Mapping
from typing import Any


class LatentTap:
    """Keeps what went last into a VAE's decoder, by a wrapper on the instance that adds nothing to the call."""

    def __init__(self, pipelines: Mapping[str, Any]) -> None:
        self.last: Any = None
        vaes = {id(p.vae): p.vae for p in pipelines.values() if hasattr(getattr(p, "vae", None), "decode")}
        for vae in vaes.values():
            self._wrap(vae, vae.decode)

    def _wrap(self, vae: Any, decode: Callable[..., Any]) -> None:
        def tapped(*arguments: Any, **options: Any) -> Any:
            self.last = arguments[0] if arguments else next(iter(options.values()), None)
            return decode(*arguments, **options)

        vae.decode = tapped

    def take(self) -> Any:
        """What the last call decoded, (B, C, h, w) on the CPU, or None; forgets it."""
        latents, self.last = self.last, None
        return None if latents is None else latents.detach().to("cpu", copy=True)
