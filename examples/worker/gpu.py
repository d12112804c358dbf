"""The process that has the GPU: loads a bundle, makes one picture after the other, ends with whoever started it.

    python gpu.py FD '{"bundle": "/bundles/current", "device": "cuda", "models": {}, "on_miss": "compile", ...}'

FD is a connected socket. Both sides write one line of JSON at a time; pictures follow theirs as raw bytes, whose number
is in it. It is a process of its own because a configuration changes things that hold for a whole process
(number formats, kernels, what is compiled): a bundle that takes over begins with none of them, and what it replaces
leaves all of its memory.
"""

import base64
import dataclasses
import gc
import hashlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

gc.disable()  # until all is loaded: what was just imported is no garbage, and would be looked through again and again
sys.dont_write_bytecode = True  # nothing is written into a bundle, and no byte code in it is ever run


class UnusableError(Exception):
    """The bundle cannot be served; the text is one sentence."""


def main() -> None:
    """Load, warm up, serve until the socket closes."""
    # The whole group or container gets these; only the server decides when this process ends, by closing the socket.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    asked = listen(connection)
    try:
        say(connection, {"phase": "checking the files"})
        check_files(Path(options["bundle"]), options["trusted_key"])
        say(connection, {"phase": "loading the pipelines"})
        served = Served(**options)
        gc.enable()
        for request in served.requests.values():
            say(connection, {"phase": f"serving {request.name} for the first time"})
            served.pictures(request)
        announced = [described(request) for request in served.requests.values()]
        say(connection, {"ready": announced, "state": served.state()})
    except Exception as error:
        if not isinstance(error, UnusableError):
            traceback.print_exc()
        say(connection, {"unusable": sentence(error)})
        return
    while True:
        answer(connection, served, asked.get())


def listen(connection: socket.socket) -> "queue.SimpleQueue[dict[str, Any]]":
    """What is asked for, as it comes. When the other side is gone, so is this process, whatever it is doing."""
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        with connection.makefile("rb") as lines:
            for line in lines:
                asked.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return asked


def say(connection: socket.socket, message: dict[str, Any], content: bytes = b"") -> None:
    """One line, and what belongs to it."""
    connection.sendall(json.dumps(message).encode() + b"\n" + content)


def answer(connection: socket.socket, served: "Served", asked: dict[str, Any]) -> None:
    """Serve one request: {"like": name, "prompt": ..., "seed": ..., "negative_prompt": ...}."""
    import torch

    started = time.perf_counter()
    try:
        changes = {key: asked[key] for key in ("prompt", "seed", "negative_prompt") if asked[key] is not None}
        made = served.pictures(dataclasses.replace(served.requests[asked["like"]], **changes))
    except Exception as error:
        traceback.print_exc()
        say(connection, {"failed": sentence(error), "state": served.state()})
        if isinstance(error, torch.AcceleratorError):
            os._exit(1)  # the device refuses everything from now on; a new process starts well
        return
    content = made.tobytes()
    took = time.perf_counter() - started
    say(connection, {"shape": made.shape, "bytes": len(content), "seconds": took, "state": served.state()}, content)


class Served:
    """A bundle's configuration, applied to its pipelines.

    models: {pipeline: folder of its model}, for those that the bundle names by a digest; for the rest see app.py.
    """

    def __init__(
        self, bundle: str, device: str, models: dict[str, str], on_miss: str, strict: bool, trusted_key: str | None
    ) -> None:
        check = Path(bundle) / "check"
        loading = ModuleType("loading")
        exec(compile((check / "measuring" / "loading.py").read_bytes(), "loading.py", "exec"), vars(loading))
        loading.load_file(check / "measuring" / "__init__.py", "measuring")
        workloads = loading.load_file(check / "workload.py", "workload")
        description = json.loads((check / "workload.json").read_text())
        for name, folder in models.items():
            if name not in description.get("pipelines", {}):
                raise UnusableError(f"--model {name}={folder}: the bundle has no pipeline {name}")
            description["pipelines"][name] |= {"model": folder, "digest": None}
        self.workload = workloads.Workload(workloads.unpacked(description, check), check)
        if self.workload.python is not None:
            loading.only_sources(self.workload.python.parent)
        self.device = device
        self.pipelines = self.workload.load(device)
        self.requests = {request.name: request for request in self.workload.requests}
        how = {"on_miss": on_miss, "strict": strict, "trusted_key": trusted_key}
        self.applied = loading.apply_beside(check, self.pipelines, **how)

    def pictures(self, request: Any) -> Any:
        """The pictures of a request: a numpy array (B, H, W, 3) of uint8. Raises whatever the pipeline raises."""
        import torch
        from measuring.contract import (
            checked_pictures,
        )  # of the bundle's check/: NaN, a wrong size or number is refused

        made = checked_pictures(self.workload.run(self.pipelines, request), request)
        levels = (made.float().clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def state(self) -> dict[str, int]:
        """Bytes on the device (on a CPU, of the process), calls that no compiled code fitted, and graphs compiled."""
        import torch

        if self.device.startswith("cuda"):
            memory, peak = torch.cuda.memory_reserved(self.device), torch.cuda.max_memory_reserved(self.device)
        else:
            import psutil

            memory = peak = psutil.Process().memory_info().rss
        # Only an apply.py that compiles something has these.
        counted = self.applied.counters(self.pipelines) if hasattr(self.applied, "counters") else {}
        return {
            "memory_bytes": memory,
            "peak_bytes": peak,
            "misses": counted.get("missed", 0),
            "compilations": counted.get("graphs", 0),
        }


def check_files(bundle: Path, trusted_key: str | None) -> None:
    """Whether every file is as it was exported, no other is there, and, with a public key, who exported it.

    Nothing of the bundle has run before this. Raises UnusableError.
    """
    try:
        manifest = (bundle / "manifest.json").read_bytes()
        listed = json.loads(manifest)["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it has no list of files"
        raise UnusableError(f"{bundle} is not a bundle: its manifest.json cannot be read ({reason})") from None
    if trusted_key is not None:
        check_signature(manifest, bundle, Path(trusted_key))
    found = {str(file.relative_to(bundle)) for file in bundle.rglob("*") if not file.is_dir() or file.is_symlink()}
    for name in sorted((found ^ set(listed)) - {"manifest.json", "manifest.json.sig"}):
        raise UnusableError(f"{bundle}: {name} is {'missing' if name in listed else 'not part of the bundle'}")
    for name, entry in listed.items():
        with (bundle / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise UnusableError(f"{bundle}: {name} was changed after the export")


def check_signature(manifest: bytes, bundle: Path, trusted_key: Path) -> None:
    """Whether a manifest was signed (Ed25519) with the private half of a key. Raises UnusableError."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(trusted_key.read_bytes())
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError
    except (OSError, ValueError):
        raise UnusableError(f"{trusted_key} is no public Ed25519 key in PEM") from None
    try:
        key.verify(base64.b64decode((bundle / "manifest.json.sig").read_bytes()), manifest)
    except (OSError, ValueError, InvalidSignature) as error:
        reason = "is missing" if isinstance(error, OSError) else "does not fit"
        raise UnusableError(f"{bundle} is not signed with {trusted_key} (the signature {reason})") from None


def described(request: Any) -> dict[str, Any]:
    """What a client has to know of a request that the bundle announces."""
    return {name: getattr(request, name) for name in ("name", "width_px", "height_px", "batch", "steps", "guidance")}


def sentence(error: Exception) -> str:
    """The first line of what went wrong."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return first if isinstance(error, UnusableError) else f"{type(error).__name__}: {first}"


if __name__ == "__main__":
    main()
