"""A GPU process (gpu.py), seen from the server: started, asked, stopped, without ever blocking the event loop."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class UnusableError(Exception):
    """The bundle cannot be served; the text is one sentence."""


class FailedError(Exception):
    """A request gave no pictures; the process goes on."""


class GoneError(Exception):
    """The process ended, or had to be ended."""


@dataclass(frozen=True)
class Pictures:
    """What a request gave."""

    shape: tuple[int, int, int, int]
    """(B, H, W, 3)"""
    content: bytes
    seconds: float
    """On the GPU, without waiting."""


class GpuProcess:
    """One bundle, loaded in a process of its own, which answers one request at a time."""

    def __init__(self, bundle: Path, options: dict[str, Any]) -> None:
        self.bundle = bundle
        self.variants: list[dict[str, Any]] = []
        """The requests that the bundle announces; each was served once."""
        self.state: dict[str, int] = {}
        """What the process last said of itself: memory_bytes, peak_bytes, misses, compilations."""
        self._options = options
        self._turn = asyncio.Lock()

    async def start(self, on_phase: Callable[[str], None], most_seconds: float) -> None:
        """Load the bundle and serve each of its requests once. Raises UnusableError; then nothing is left of it."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", str(Path(__file__).with_name("gpu.py")), str(theirs.fileno())]
        options = json.dumps({"bundle": str(self.bundle), **self._options})
        # Python would keep what it compiles beside the bundle's files.
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                *command, options, pass_fds=[theirs.fileno()], env=environment, start_new_session=True
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        try:
            async with asyncio.timeout(most_seconds):
                while "ready" not in (message := await self._read()):
                    if "unusable" in message:
                        raise UnusableError(message["unusable"])
                    on_phase(message["phase"])
        except TimeoutError:
            await self.stop()
            raise UnusableError(f"it was not ready after {most_seconds:g} s") from None
        except GoneError as error:
            await self.stop()
            raise UnusableError(str(error)) from None
        except BaseException:
            await self.stop()
            raise
        self.variants = message["ready"]

    async def serve(self, asked: dict[str, Any], most_seconds: float) -> Pictures:
        """Serve one request. Raises FailedError, or GoneError; after that there is no process."""
        async with self._turn:
            try:
                async with asyncio.timeout(most_seconds):
                    self._writer.write(json.dumps(asked).encode() + b"\n")
                    answer = await self._read()
                    if "failed" in answer:
                        raise FailedError(answer["failed"])
                    content = await self._reader.readexactly(answer["bytes"])
            except FailedError:
                raise
            except BaseException as error:  # cancelled too: its answer would be taken for the next request's
                self._kill()
                if isinstance(error, TimeoutError):
                    raise GoneError(f"it took longer than {most_seconds:g} s and was ended") from None
                if isinstance(error, OSError | asyncio.IncompleteReadError):
                    raise GoneError(f"the GPU process ended ({await self.ended()})") from None
                raise
        return Pictures(tuple(answer["shape"]), content, answer["seconds"])

    async def stop(self) -> None:
        """Let it finish what it does, and end it."""
        async with self._turn:
            self._writer.close()
            await self.ended()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def ended(self) -> str:
        """Wait for its end; returns how it ended."""
        code = await self.process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def _read(self) -> dict[str, Any]:
        try:
            line = await self._reader.readline()
        except OSError:
            line = b""
        if not line:
            raise GoneError(f"the GPU process ended ({await self.ended()})")
        message: dict[str, Any] = json.loads(line)
        self.state = message.get("state", self.state)
        return message
