"""A headless Chromium for tests, driven over its debugging pipe: no driver program, no port, no other host."""

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""The browser's program, or None where there is none."""

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    # Whatever a page asks for elsewhere fails at once.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-pipe",
)


class NavigatedError(AssertionError):
    """The page was left while it was asked for something."""


class Browser:
    """One page of a headless Chromium; use it as a context manager.

    `console` collects what the page's scripts complained about, `requests` every URL that it asked for.
    """

    def __init__(
        self, width_px: int = 1280, height_px: int = 900, scheme: str = "light", timeout_s: float = 30
    ) -> None:
        self._size = (width_px, height_px)
        self._scheme = scheme
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session: str | None = None
        self.console: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> "Browser":
        assert CHROMIUM is not None
        self._profile = tempfile.mkdtemp(prefix="paretune-browser-")
        child_reads, self._write = os.pipe()
        self._read, child_writes = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on descriptor 4. Copies well above them, made first,
        # cannot be overwritten by the moves in the child.
        high_reads = fcntl.fcntl(child_reads, fcntl.F_DUPFD, 20)
        high_writes = fcntl.fcntl(child_writes, fcntl.F_DUPFD, 20)
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        redirected = ["bash", "-c", f'exec 3<&{high_reads} 4>&{high_writes} "$@"', "bash", *command]
        self._process = subprocess.Popen(
            redirected, pass_fds=(high_reads, high_writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for descriptor in (child_reads, child_writes, high_reads, high_writes):
            os.close(descriptor)
        try:
            self._attach()
        except BaseException:
            self._end()
            raise
        return self

    def _attach(self) -> None:
        targets = self._send("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self._send("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._send(f"{domain}.enable")
        self.resize(*self._size)
        self._send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": self._scheme}])

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        # Asked first: a browser that is killed leaves helpers that write into its profile for a moment longer.
        os.write(self._write, json.dumps({"id": next(self._ids), "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        shutil.rmtree(self._profile, ignore_errors=True)

    def resize(self, width_px: int, height_px: int) -> None:
        """Give the page another size."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=1,
            mobile=width_px < 700,
        )

    def open(self, url: str) -> None:
        """Go to a page and wait until its document is complete."""
        self._send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page. Raises AssertionError when it throws."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until a JavaScript expression is truthy; return its value. Raises AssertionError when it never is."""
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            with suppress(NavigatedError):
                if value := self.evaluate(expression):
                    return value
            time.sleep(0.1)
        raise AssertionError(f"never true in {self._timeout_s} s: {expression}; the page shows:\n{self.text()[:2000]}")

    def text(self) -> str:
        """What the page shows, as text."""
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self, file: Path, whole_page: bool = False) -> Path:
        """Save what the page looks like as a PNG."""
        answer = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole_page)
        file.write_bytes(base64.b64decode(answer["data"]))
        return file

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            received = self._receive()
            if received.get("id") == number:
                if "error" in received:
                    said = str(received["error"])
                    raise NavigatedError(said) if "navigated" in said or "context" in said else AssertionError(said)
                return dict(received["result"])
            self._note(received)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + self._timeout_s
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._read, 1 << 20) if ready else b""
            assert chunk, "the browser does not answer"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.console.append(str(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.console.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            case "Runtime.consoleAPICalled" if parameters["type"] == "error":
                self.console.append(str([argument.get("value") for argument in parameters["args"]]))
