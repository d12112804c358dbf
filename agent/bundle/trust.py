"""Whether the compiled code of a bundle may be loaded here: its signature, its files, and what it was built for.

Compiled artefacts check nothing by themselves, and some are pickles, which run whatever they say when they are loaded.
So `apply(..., artefacts=...)` asks `usable()` first. This file lies beside apply.py in every bundle that has artefacts,
and needs the standard library and torch; `cryptography` only where a `trusted_key` is given.

It trusts apply.py and itself: Python has read both before this runs. Against forged code in those two, check a bundle
from outside of it (`paretune verify --trusted-key`), or keep a copy of both where nobody else writes.
"""

import base64
import binascii
import hashlib
import json
import logging
import os
import platform
import stat
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

MANIFEST, SIGNATURE = "manifest.json", "manifest.json.sig"
ARTEFACTS = "artefacts"
BUILT_FOR = "artefacts/built_for.json"
"""What `describe` said in the process that built the artefacts, before anything was applied."""
RUN_FIRST = ("apply.py", "trust.py")
"""Listed files beside the artefacts that have to be as they were exported."""
SCHEMA_VERSION = 1
MOST_BYTES = 64 << 20
PACKAGES = ("torch", "triton", "diffusers", "transformers")
"""Their versions decide what compiled code is called with, and whether it can be loaded."""
WORDS = {
    "device_kind": "the device",
    "device_name": "the device's name",
    "compute_capability": "the compute capability",
    "driver": "the driver",
    "cuda": "CUDA",
    "python": "Python",
    "platform": "the platform",
}
NO_CONFIGURATION = ("transformers_version", "dtype", "torch_dtype")
"""Keys of a model's configuration that say where it comes from, not what it computes, as those with a "_" in front."""


class ArtefactError(RuntimeError):
    """The artefacts are not loaded, for the reason in the sentence."""


def usable(
    bundle: Path, pipelines: Mapping[str, Any], *, strict: bool = False, trusted_key: str | Path | None = None
) -> bool:
    """Whether the artefacts of a bundle can be used for these pipelines, to which nothing was applied yet.

    False, with one warning that names every difference, when they were built for another machine, other versions or
    another model; with `strict`, ArtefactError instead. Before that the files are compared with the manifest, and the
    manifest with its signature when `trusted_key` is given (a public key in PEM). What is damaged, missing, added, or
    not signed with that key is an ArtefactError in any case.
    """
    bundle = Path(bundle)
    check_files(bundle, checked_manifest(bundle, trusted_key))
    built_for = _parsed(read_plain(bundle / BUILT_FOR), bundle / BUILT_FOR)
    try:
        found = differences(built_for, describe(pipelines, list(built_for["packages"])))
    except (KeyError, TypeError, AttributeError):
        raise ArtefactError(f"{bundle / BUILT_FOR} is damaged: export the bundle again") from None
    if not found:
        return True
    sentence = f"the compiled code in {bundle / ARTEFACTS} was built for something else ({'; '.join(found)})"
    if strict:
        raise ArtefactError(f"{sentence}: export the bundle on a machine like this one, or leave out strict=True")
    warnings.warn(f"{sentence}: it is not used, and this process compiles as it does without it", stacklevel=4)
    logging.getLogger("paretune").warning("%s: it is not used", sentence)
    return False


def describe(pipelines: Mapping[str, Any], packages: Sequence[str] = ()) -> dict[str, Any]:
    """What compiled code depends on: this process, its device, and the models, to which nothing was applied yet.

    packages: distributions beside PACKAGES that matter. JSON-able.
    """
    import torch

    modules = dict(_modules_of(pipelines))
    devices = [tensor.device for module in modules.values() for tensor in module.parameters()]
    device = next((one for one in devices if one.type == "cuda"), torch.device("cpu"))
    on_gpu = device.type == "cuda"
    return {
        "schema": SCHEMA_VERSION,
        "device_kind": device.type,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _cpu_model(),
        "compute_capability": (
            ".".join(map(str, torch.cuda.get_device_capability(device)))
            if on_gpu
            else str(torch.backends.cpu.get_cpu_capability())
        ),
        "driver": _driver() if on_gpu else None,
        "cuda": torch.version.cuda,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "platform": f"{platform.system()}-{platform.machine()}",
        "packages": {name: _version(name) for name in dict.fromkeys([*PACKAGES, *packages])},
        "models": {name: _model(module) for name, module in modules.items()},
    }


def differences(built_for: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In words, one for each thing that is not as it was; empty when all of it is the same."""
    if built_for["schema"] != SCHEMA_VERSION:
        return [f"its description has schema {built_for['schema']!r}, and this reads {SCHEMA_VERSION}"]
    found = [
        f"{words} is {_shown(here[key])} here, was {_shown(built_for[key])}"
        for key, words in WORDS.items()
        if here[key] != built_for[key]
    ]
    for name, version in built_for["packages"].items():
        if here["packages"][name] != version:
            found.append(f"{name} is {_shown(here['packages'][name])} here, was {_shown(version)}")
    for name in sorted({*built_for["models"], *here["models"]}):
        found += _model_differences(name, built_for["models"].get(name), here["models"].get(name))
    return found


def checked_manifest(bundle: Path, trusted_key: str | Path | None = None) -> dict[str, Any]:
    """The manifest, after its signature was checked where a key is given. Raises ArtefactError."""
    content = read_plain(bundle / MANIFEST)
    if trusted_key is not None:
        check_signature(content, bundle, trusted_key)
    return _parsed(content, bundle / MANIFEST)


def check_signature(manifest: bytes, bundle: Path, trusted_key: str | Path) -> None:
    """Whether the content of a manifest was signed with the private half of a key. Raises ArtefactError.

    What lies in the bundle beside it is the signature (Ed25519) of exactly these bytes, in base64.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise ArtefactError("checking a signature needs the package cryptography: pip install cryptography") from None
    pem = read_plain(Path(trusted_key), links=True)
    try:
        key = load_pem_public_key(pem)
    except Exception:  # whatever a parser says of a file that is no key; its content is never repeated
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ArtefactError(f"{trusted_key} is no public Ed25519 key in PEM: give the .pub file of paretune keygen")
    if not os.path.lexists(bundle / SIGNATURE):
        raise ArtefactError(f"{bundle} is not signed: export it again with --sign KEY, or give no trusted key")
    try:
        key.verify(base64.b64decode(read_plain(bundle / SIGNATURE).strip(), validate=True), manifest)
    except (InvalidSignature, binascii.Error, ValueError):
        raise ArtefactError(
            f"{bundle} was not signed with {trusted_key}, or was changed since: {SIGNATURE} does not fit {MANIFEST}"
        ) from None


def check_files(bundle: Path, manifest: Mapping[str, Any]) -> None:
    """Whether the artefacts, and what loads them, are exactly the listed files. Raises ArtefactError."""
    try:
        listed = {
            str(name): (str(entry["sha256"]), int(entry["size_bytes"]))
            for name, entry in manifest["files"].items()
            if str(name).startswith(f"{ARTEFACTS}/") or name in RUN_FIRST
        }
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise ArtefactError(f"{bundle / MANIFEST} is damaged: export the bundle again") from None
    if BUILT_FOR not in listed:
        raise ArtefactError(f"{bundle} has no compiled code: export it with artefacts")
    for name in RUN_FIRST:
        if (bundle / name).is_symlink():
            raise ArtefactError(f"{bundle}: {name} is a link; export the bundle again")
    present = {*_files_below(bundle, ARTEFACTS), *(name for name in RUN_FIRST if (bundle / name).exists())}
    for name in sorted(set(listed) - present):
        raise ArtefactError(f"{bundle}: {name} is missing; export the bundle again")
    for name in sorted(present - set(listed)):
        raise ArtefactError(f"{bundle}: {_printable(name)} is not part of the bundle; remove it or export again")
    names, most = sorted(listed, key=lambda name: -listed[name][1]), min(16, os.cpu_count() or 1)
    with ThreadPoolExecutor(most) as threads:  # a share for each of them: most files are small
        shares = [threads.submit(_changed, bundle, names[first::most], listed) for first in range(most)]
        for share in shares:
            if (changed := share.result()) is not None:
                raise ArtefactError(f"{bundle}: {changed} was changed after the export; export the bundle again")


def read_plain(file: Path, *, links: bool = False) -> bytes:
    """A small file's content; a link is followed only with `links`. Raises ArtefactError."""
    try:
        content, _ = _read(file, MOST_BYTES, links)
    except OSError as error:
        raise ArtefactError(f"{file} cannot be read ({error.strerror or error})") from None
    return content


def _read(file: Path, most_bytes: int, links: bool) -> tuple[bytes, int]:
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW))
    with os.fdopen(descriptor, "rb") as opened:
        found = os.fstat(opened.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
            raise OSError(f"it is no file, or larger than {most_bytes >> 20} MiB")
        return opened.read(most_bytes), found.st_size


def _changed(bundle: Path, names: Sequence[str], listed: Mapping[str, tuple[str, int]]) -> str | None:
    """The first of these files that is not as it is listed."""
    return next((name for name in names if not _is_as_listed(os.path.join(bundle, name), *listed[name])), None)


def _is_as_listed(file: str, sha256: str, size_bytes: int) -> bool:
    digest, read_bytes = hashlib.sha256(), 0
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # One byte more than there should be, where that is little: most files are read at once.
            while part := os.read(descriptor, min(size_bytes + 1, 1 << 20)):
                digest.update(part)
                read_bytes += len(part)
                if read_bytes > size_bytes:
                    return False
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ArtefactError(f"{file} cannot be read ({error.strerror or error})") from None
    return read_bytes == size_bytes and digest.hexdigest() == sha256


def _files_below(bundle: Path, folder: str) -> Iterator[str]:
    """Every file in a folder of a bundle, relative to the bundle. Raises ArtefactError for links and whatever else is
    no file.
    """
    try:
        with os.scandir(bundle / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ArtefactError(f"{bundle / folder} cannot be read ({error.strerror or error})") from None
    for entry in found:
        name = f"{folder}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(bundle, name)
        elif entry.is_file(follow_symlinks=False):
            yield name
        else:
            raise ArtefactError(f"{bundle}: {_printable(entry.name)} is neither a file nor a folder; export it again")


def _parsed(content: bytes, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ArtefactError(f"{file} is damaged: export the bundle again (it is not a JSON object)")
    return data


def _modules_of(pipelines: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every torch module of the pipelines under one of its names, "main.unet"; shared ones once."""
    import torch

    seen: set[int] = set()
    for name, entry in pipelines.items():
        parts = getattr(entry, "components", None)
        inside = dict(parts) if isinstance(parts, Mapping) else {"": entry}
        for part, module in inside.items():
            if isinstance(module, torch.nn.Module) and id(module) not in seen:
                seen.add(id(module))
                yield f"{name}.{part}".rstrip("."), module


def _model(module: Any) -> dict[str, Any]:
    configuration: Any = getattr(module, "config", None)
    if hasattr(configuration, "to_dict"):
        configuration = configuration.to_dict()
    plain = dict(configuration) if isinstance(configuration, Mapping) else {}
    kept = {str(k): v for k, v in plain.items() if not str(k).startswith("_") and k not in NO_CONFIGURATION}
    return {
        "class": type(module).__name__,
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in module.parameters()}),
        "configuration": json.loads(json.dumps(kept, default=str, sort_keys=True)),
    }


def _model_differences(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Iterator[str]:
    if before is None or now is None:
        yield f"there is {'no' if now is None else 'a'} {name} here, was {'no' if before is None else 'a'}"
        return
    for key, words in (("class", "class"), ("dtypes", "number format")):
        if now[key] != before[key]:
            yield f"the {words} of {name} is {_shown(now[key])} here, was {_shown(before[key])}"
    then, here = before["configuration"], now["configuration"]
    for key in sorted({*then, *here}):
        if then.get(key) != here.get(key):
            yield f"{key} of {name} is {_shown(here.get(key))} here, was {_shown(then.get(key))}"


def _driver() -> str | None:
    """The version of NVIDIA's driver, asked of its library, which is there wherever a GPU is."""
    import ctypes

    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(96)
        if library.nvmlInit_v2() == 0 and library.nvmlSystemGetDriverVersion(text, len(text)) == 0:
            return text.value.decode()
    except (OSError, AttributeError):
        pass
    return None


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
            for line in cpuinfo:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _printable(name: str) -> str:
    shown = name if name.isprintable() else ascii(name)
    return shown if len(shown) <= 120 else f"{shown[:120]} ..."


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    text = "none" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."
