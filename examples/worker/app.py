"""A worker that serves a paretune bundle over HTTP: one GPU, one request at a time.

    python app.py BUNDLE --model main=/models/sdxl      # python app.py --help lists the rest

BUNDLE may be a link. SIGHUP loads what it leads to now, and puts it into service when it is warm; SIGTERM ends the
worker after every accepted request has been answered. See README.md.

    app.py      what clients see            worker.py   the queue, the bundle that is served, and the next one
    gpu.py      the process with the GPU    process.py  that process, seen from here
"""

import argparse
import asyncio
import base64
import contextlib
import io
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from process import Pictures
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from worker import SECONDS, Job, Limits, UnansweredError, Worker

MOST_BODY_BYTES = 16 << 10
STARTING_S = 5

answers = Counter("worker_answers", "Answers to POST /pictures", ["code"])
latency = Histogram("worker_latency_seconds", "From a request to its pictures, waiting included", buckets=SECONDS)


class Order(BaseModel):
    """What a client asks for. Steps and guidance are the announced request's: the pictures were judged with them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(min_length=1, max_length=4000)
    negative_prompt: str | None = Field(None, max_length=4000)
    seed: int | None = Field(None, ge=0, lt=2**53)
    width_px: int | None = Field(None, ge=1)
    height_px: int | None = Field(None, ge=1)
    like: str | None = Field(None, description="name of an announced request, where several have this size")

    def variant(self, announced: list[dict[str, Any]]) -> str:
        """The name of the first announced request that fits. Raises HTTPException 422 when none does."""
        asked = {"name": self.like, "width_px": self.width_px, "height_px": self.height_px}
        for one in announced:
            if all(value in (None, one[key]) for key, value in asked.items()):
                return str(one["name"])
        known = ", ".join(f"{one['name']} ({one['width_px']} x {one['height_px']} px)" for one in announced)
        raise HTTPException(422, f"only what the bundle was measured with is served: {known}")


def build(worker: Worker, body_s: float) -> FastAPI:
    """The application. body_s: that a client may take to send a request's body."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, worker.stop)
        loop.add_signal_handler(signal.SIGHUP, worker.change_soon)
        worker.open()  # goes on beside this: /healthz and /readyz answer while the bundle loads
        yield
        await worker.close()

    app = FastAPI(title="paretune worker", lifespan=lifespan, max_body_size=MOST_BODY_BYTES)
    app.add_middleware(LimitSlowBodies, seconds=body_s)

    @app.post("/pictures")
    async def pictures(order: Order, request: Request) -> dict[str, Any]:
        """Make the pictures of one prompt: PNG files in base64, as many as the announced request's batch."""
        began = asyncio.get_running_loop().time()
        if worker.stopping:
            raise HTTPException(503, "the worker is stopping", {"Connection": "close", "Retry-After": "1"})
        if worker.gpu is None:
            raise HTTPException(503, f"not ready: {worker.phase}", {"Retry-After": str(STARTING_S)})
        name = order.variant(worker.gpu.variants)
        asked = {"like": name, **order.model_dump(include={"prompt", "negative_prompt", "seed"})}
        job = Job(asked, request.is_disconnected, asyncio.get_running_loop().create_future())
        try:
            worker.accept(job)
            made = await job.made
        except UnansweredError as error:
            later = {"Retry-After": str(worker.retry_after_s())} if error.code in (429, 503) else None
            raise HTTPException(error.code, str(error), later) from None
        content = await asyncio.to_thread(encoded, made)
        latency.observe(asyncio.get_running_loop().time() - began)
        answers.labels(200).inc()
        return {"variant": name, "seconds": round(made.seconds, 3), "png_base64": content}

    @app.get("/healthz")
    async def healthz() -> dict[str, bool]:
        """Whether the server lives. Start it again where this is not answered."""
        return {"alive": True}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether requests are accepted, and which."""
        if worker.gpu is None or worker.stopping:
            return JSONResponse({"ready": False, "why": "stopping" if worker.stopping else worker.phase}, 503)
        known = {"ready": True, "bundle": str(worker.gpu.bundle), "variants": worker.gpu.variants}
        return JSONResponse({**known, "last_change": worker.last_change or "well"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        if request.url.path == "/pictures":
            answers.labels(error.status_code).inc()
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        """One sentence, with nothing in it of what was sent: that may not even be text."""
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:] if str(part) in Order.model_fields)
        return await refused(request, HTTPException(422, f"{where or 'the body'}: {first['msg']}"))

    return app


class LimitSlowBodies:
    """Answers 408 when a request's body is not there in time."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application around another."""
        deadline = asyncio.get_running_loop().time() + self.seconds
        whole = scope["type"] != "http"

        async def in_time() -> Message:
            nonlocal whole
            if whole:  # what comes after a body is only that the client has left
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body was not there after {self.seconds:g} s") from None
            whole = not message.get("more_body", False)
            return message

        await self.app(scope, in_time, send)


def encoded(made: Pictures) -> list[str]:
    """Every picture of a batch as a PNG file, in base64. Quick rather than small: 0.1 s for 1024 x 1024."""
    batch, height_px, width_px, channels = made.shape
    size = height_px * width_px * channels
    files = []
    for start in range(0, batch * size, size):
        file = io.BytesIO()
        picture = Image.frombytes("RGB", (width_px, height_px), made.content[start : start + size])
        picture.save(file, "PNG", compress_level=1)
        files.append(base64.b64encode(file.getvalue()).decode())
    return files


def main() -> None:
    """Serve until SIGTERM; exit code 1 when no bundle can be served."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to change

    def at_least_one(text: str) -> int:
        if (number := int(text)) < 1:
            raise ValueError
        return number

    def model(text: str) -> tuple[str, str]:
        name, _, folder = text.partition("=")
        if not (Path(folder) / "model_index.json").is_file():
            raise argparse.ArgumentTypeError(f"{text!r} is not PIPELINE=FOLDER with a model_index.json in the folder")
        return name, str(Path(folder).resolve())

    parser = argparse.ArgumentParser(description="Serves a paretune bundle; see README.md.")
    parser.add_argument("bundle", type=Path, help="the bundle's folder, or a link to it")
    parser.add_argument("--model", type=model, action="append", default=[], metavar="PIPELINE=FOLDER")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument(
        "--on-miss",
        choices=("compile", "eager", "error"),
        default="compile",
        help="a call that no compiled code of the bundle fits: compile beside serving it, never compile, or fail",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse compiled code that was built for another machine or other versions",
    )
    parser.add_argument("--trusted-key", type=Path, help="public key that a bundle has to be signed with")
    parser.add_argument("--queue", type=at_least_one, default=16, help="requests that may wait; more are answered 429")
    parser.add_argument("--request-s", type=float, default=300, help="that a request may take on the GPU")
    parser.add_argument("--body-s", type=float, default=10, help="that a client may take to send a request")
    parser.add_argument("--load-s", type=float, default=1800, help="until a bundle has to be ready")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()

    gpu_options = {
        "device": options.device,
        "models": dict(options.model),
        "on_miss": options.on_miss,
        "strict": options.strict,
        "trusted_key": None if options.trusted_key is None else str(options.trusted_key.resolve()),
    }
    worker = Worker(options.bundle, gpu_options, Limits(options.queue, options.request_s, options.load_s))
    config = uvicorn.Config(
        build(worker, options.body_s), host=options.host, port=options.port, timeout_graceful_shutdown=30
    )
    server = uvicorn.Server(config)

    def end() -> None:
        server.should_exit = True

    worker.end = end
    server.run()
    sys.exit(1 if worker.failed else 0)


if __name__ == "__main__":
    main()
