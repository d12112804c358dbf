"""Loads a workload's pipelines and runs its requests.

This file is copied beside every apply.py, so it stands on torch, diffusers and the standard library alone. It reads
`workload.json`, which lies in the same folder, and describes either diffusers pipelines or the user's own Python file.
"""

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """One call as production makes it.

    `batch` pictures are made with the seeds seed, seed + 1, ...; `weight` is this request's share in the mix that
    latency is averaged over. `arguments` go to the pipeline's call as they are. `image` and `mask_image` are the
    files of the pictures that it begins with.
    """

    name: str
    pipeline: str
    prompt: str
    width_px: int
    height_px: int
    steps: int
    negative_prompt: str | None = None
    batch: int = 1
    guidance: float = 5.0
    seed: int = 0
    weight: float = 1.0
    adapters: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    image: str | None = None
    mask_image: str | None = None

    def shape(self) -> tuple[Any, ...]:
        """What latency depends on: requests that are equal in this are timed together."""
        settings = (self.pipeline, self.width_px, self.height_px, self.batch, self.steps, self.guidance > 1)
        pictures = (self.image is not None, self.mask_image is not None)
        return (*settings, *pictures, self.adapters, json.dumps(dict(self.arguments), sort_keys=True))


class Workload:
    """Named pipelines, which may share modules, and the requests they serve."""

    def __init__(self, description: Mapping[str, Any], folder: Path | None = None) -> None:
        """description: the content of workload.json; folder: that its relative paths are taken from.

        Raises ValueError for another schema version.
        """
        if description.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"workload schema {description.get('schema')!r} is not {SCHEMA_VERSION}")
        self._description = description
        self.python = Path(description["python"]) if "python" in description else None
        """The user's own Python file, where there is one."""
        self._module: ModuleType | None = None
        self._pictures: dict[tuple[str, int, int], Any] = {}
        self.trace: list[str] = list(description.get("trace", ()))
        """Names of requests in the order in which production sends them; empty where they take turns."""
        self.requests = [request_of(request, folder or Path()) for request in description["requests"]]

    @classmethod
    def read(cls, folder: Path) -> "Workload":
        """From the workload.json in a folder. Raises FileNotFoundError for a bundle whose model is not here."""
        return cls(unpacked(json.loads((folder / "workload.json").read_text()), folder), folder)

    def load(self, device: str) -> Any:
        """Load every pipeline onto the device: {name: pipeline}; shared modules are the same object in several.

        Of a user's own file whatever its load() returns, which measuring/contract.py looks at.
        """
        if self.python is not None:
            self._module = _user_module(self.python)
            return self._module.load(device, **self._description.get("options", {}))
        pipelines: dict[str, Any] = {}
        for name, spec in self._description["pipelines"].items():
            pipelines[name] = _load_pipeline(spec, pipelines, device)
            pipelines[name].set_progress_bar_config(disable=True)
        return pipelines

    def run(self, pipelines: Mapping[str, Any], request: Request) -> Any:
        """Serve one request. Returns pictures as they come: of diffusers' pipelines (B, 3, H, W), floating point in
        [0, 1], on any device; of a user's own file whatever its run() returns, which measuring/contract.py looks at.
        """
        import torch

        if self._module is not None:
            return self._module.run(pipelines, request)
        pipeline = pipelines[request.pipeline]
        seeds = [(request.seed + index) % 2**64 for index in range(request.batch)]
        call: dict[str, Any] = {
            "prompt": [request.prompt] * request.batch,
            "num_inference_steps": request.steps,
            "guidance_scale": request.guidance,
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            "output_type": "pt",
            **request.arguments,
        }
        if request.negative_prompt is not None:
            call["negative_prompt"] = [request.negative_prompt] * request.batch
        for name in ("image", "mask_image"):
            if (file := getattr(request, name)) is not None:
                call[name] = [self._picture(file, request, name)] * request.batch
        # A pipeline that begins with a picture may take its size from it.
        if request.image is None or "width" in inspect.signature(type(pipeline).__call__).parameters:
            call |= {"width": request.width_px, "height": request.height_px}
        return pipeline(**call).images

    def _picture(self, file: str, request: Request, name: str) -> Any:
        """A request's picture in the request's size; read once, because reading files is not what is measured."""
        from PIL import Image

        key = (file, request.width_px, request.height_px)
        if key not in self._pictures:
            is_mask = name == "mask_image"
            filter_ = Image.Resampling.NEAREST if is_mask else Image.Resampling.LANCZOS
            with Image.open(file) as opened:
                self._pictures[key] = opened.convert("L" if is_mask else "RGB").resize(key[1:], filter_)
        return self._pictures[key]


def request_of(description: Mapping[str, Any], folder: Path) -> Request:
    """One of the requests in workload.json. The paths of its pictures are taken from `folder`."""
    names = [name for name in ("image", "mask_image") if description.get(name) is not None]
    pictures = {name: str(folder / description[name]) for name in names}
    return Request(**{**description, "adapters": tuple(description.get("adapters", ())), **pictures})


def unpacked(description: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A bundle's workload.json with the places on this machine; `folder` is where it lies. Any other stays as it is.

    A bundle has copies of the Python files and of the configurations, but not of the models: those it names by the
    digest of their content. Raises FileNotFoundError for one that this machine is not known to have.
    """
    found = dict(description)
    found["requests"] = [
        {**request, **{k: str(folder / request[k]) for k in ("image", "mask_image") if request.get(k) is not None}}
        for request in description["requests"]
    ]
    if "sha256" in description:
        copy = folder / description["python"]
        original = place_of(digest_of(description["sha256"])).resolve()
        # Where the original is still there, so is what it reads beside itself.
        found["python"] = str(original / copy.name if _are_same(original, description["sha256"]) else copy)
    if "pipelines" in description:
        found["pipelines"] = {k: _unpacked_pipeline(k, v, folder) for k, v in description["pipelines"].items()}
    return found


def _unpacked_pipeline(name: str, spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    found = dict(spec)
    if spec.get("config") is not None:
        found["config"] = str(folder / spec["config"])
    if spec.get("digest") is not None:
        place = place_of(spec["digest"])
        if not place.exists():
            raise FileNotFoundError(
                f"pipeline {name} needs the model folder {spec['model']!r} (digest {spec['digest']}), which is not in "
                f"the bundle and not known on this machine: make {place} a link to it"
            )
        found["model"] = str(place.resolve())
    return found


def place_of(digest: str) -> Path:
    """The link to where something with this digest lies on this machine; it may not exist.

    Exporting a bundle makes these links, so that the bundle itself need not hold the paths of the exporting machine.
    """
    given = os.environ.get("PARETUNE_PLACES")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(given) if given else cache / "paretune" / "places").expanduser() / digest


def digest_of(data: Any) -> str:
    """16 hex digits that stand for plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def _are_same(folder: Path, sha256: Mapping[str, str]) -> bool:
    try:
        return all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256[name] for name in sha256)
    except OSError:
        return False


def _user_module(path: Path) -> ModuleType:
    # The user's file may import its neighbours, as it would when run as a script.
    sys.path.insert(0, str(path.parent))
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    sys.modules[path.stem] = module
    # From its source, as everything that is measured: byte code beside it may be of something else.
    exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    for function in ("load", "run"):
        if not callable(getattr(module, function, None)):
            raise AttributeError(f"{path} has no function {function}()")
    return module


def _load_pipeline(spec: Mapping[str, Any], loaded: Mapping[str, Any], device: str) -> Any:
    import diffusers
    import torch

    pipeline_class = getattr(diffusers, spec["class"])
    shared = {component: getattr(loaded[owner], component) for component, owner in spec["share"].items()}
    dtype = getattr(torch, spec["dtype"])
    if spec["weights"] == "random":
        given = {**shared, **dict.fromkeys(spec.get("without", ()))}
        return _random_pipeline(pipeline_class, Path(spec["config"]), given, dtype, device)
    options = {key: spec[key] for key in ("variant", "revision") if spec[key] is not None}
    options |= dict.fromkeys(spec.get("without", ()))
    # Weights in pickle files are refused: loading one runs whatever it says.
    return pipeline_class.from_pretrained(spec["model"], dtype=dtype, use_safetensors=True, **shared, **options).to(
        device
    )


def _random_pipeline(pipeline_class: Any, config: Path, shared: Mapping[str, Any], dtype: Any, device: str) -> Any:
    """A full-size pipeline from its published configuration, with random weights made on the device."""
    import diffusers
    import torch
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    components: dict[str, Any] = dict(shared)
    torch.manual_seed(0)
    for name, entry in json.loads((config / "model_index.json").read_text()).items():
        if name.startswith("_") or name in shared or not isinstance(entry, list) or entry[0] is None:
            continue
        component_class = getattr(libraries[entry[0]], entry[1])
        if "Tokenizer" in entry[1]:
            components[name] = _letter_tokenizer(transformers)
        elif not issubclass(component_class, torch.nn.Module):
            components[name] = component_class.from_config(component_class.load_config(config / name))
        else:
            components[name] = _random_module(component_class, config / name, dtype, device)
    return pipeline_class(**components)


def _random_module(module_class: Any, config: Path, dtype: Any, device: str) -> Any:
    """Made where it will run, in its final number format: a copy in main memory would double what a machine needs."""
    import torch

    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            if hasattr(module_class, "from_config"):
                module = module_class.from_config(module_class.load_config(config))
            else:
                module = module_class(module_class.config_class.from_pretrained(config))
    finally:
        torch.set_default_dtype(default_dtype)
    return module.to(device, dtype).eval().requires_grad_(False)


def _letter_tokenizer(transformers: ModuleType) -> Any:
    """A CLIP tokenizer that spells: with random weights only the number of tokens matters, and it is always 77."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    tokenizer.model_max_length = 77
    return tokenizer
