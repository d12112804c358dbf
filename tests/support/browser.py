"""A headless Chromium for tests, the system's own, driven by playwright."""

import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from playwright.sync_api import Error, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""The browser's program, or None where there is none."""

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-proxy-server",
    # Whatever a page asks for elsewhere fails at once.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Browser:
    """One page of a headless Chromium; use it as a context manager.

    `console` collects what the page's scripts complained about, `requests` every URL that it asked for.
    """

    def __init__(
        self, width_px: int = 1280, height_px: int = 900, scheme: str = "light", timeout_s: float = 30
    ) -> None:
        self._size = (width_px, height_px)
        self._scheme: Any = scheme
        self._timeout_s = timeout_s
        self.console: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> "Browser":
        assert CHROMIUM is not None
        self._playwright = sync_playwright().start()
        try:
            self._chromium = self._playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
            context = self._chromium.new_context(no_viewport=True, color_scheme=self._scheme)
            context.set_default_timeout(1000 * self._timeout_s)
            self._page = context.new_page()
            self._session = context.new_cdp_session(self._page)
            self._page.on("pageerror", lambda error: self.console.append(str(error)))
            self._page.on("request", lambda request: self.requests.append(request.url))
            self._page.on("console", self._note)
            self.resize(*self._size)
        except BaseException:
            self._playwright.stop()
            raise
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._chromium.close()
        self._playwright.stop()

    def resize(self, width_px: int, height_px: int) -> None:
        """Give the page another size. What is narrower than 700 pixels is a phone: playwright cannot change that."""
        self._session.send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 700},
        )

    def open(self, url: str) -> None:
        """Go to a page and wait until its document is complete."""
        self._page.goto(url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page. Raises playwright's Error when it throws."""
        return self._page.evaluate(expression)

    def wait_for(self, expression: str) -> Any:
        """Wait until a JavaScript expression is truthy; return its value. Raises AssertionError when it never is.

        wait_for_function needs eval(), which the pages' content security policy forbids.
        """
        deadline = time.monotonic() + self._timeout_s
        while time.monotonic() < deadline:
            try:
                if value := self.evaluate(expression):
                    return value
            except Error as error:
                if "navigat" not in error.message and "context" not in error.message:
                    raise
            self._page.wait_for_timeout(100)
        raise AssertionError(f"never true in {self._timeout_s} s: {expression}; the page shows:\n{self.text()[:2000]}")

    def text(self) -> str:
        """What the page shows, as text."""
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self, file: Path, whole_page: bool = False) -> Path:
        """Save what the page looks like as a PNG."""
        self._page.screenshot(path=file, full_page=whole_page)
        return file

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.console.append(f"{message.text} {message.location.get('url', '')}")
