"""Start the server of the page."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from transformers import pipeline

from modeling_r2tuning import DEFAULT_MODEL
from modeling_r2tuning.pipeline_r2tuning import TASK, VideoGroundingPipeline
from r2tuning.app.grounding import Grounder
from r2tuning.app.page import build_page
from r2tuning.app.sessions import Sessions
from r2tuning.checks import choose_device
from r2tuning.terminal import write_line
from r2tuning.visualization.style import CURVE_COLOR, HIGHLIGHT_COLOR, MOMENT_COLOR, SKY_BLUE


if TYPE_CHECKING:
    from r2tuning.library.library import Library


ASSETS = Path(__file__).with_name("assets")
MAX_UPLOAD_MB, MAX_DURATION_SEC = 500.0, 3600.0
SWEEP_SEC = 10.0
# Fonts of the user's machine: the page loads nothing from elsewhere.
FONTS = ("system-ui", "sans-serif")
CODE_FONTS = ("ui-monospace", "monospace")
COLORS = f"""\
:root {{ --r2-curve: {CURVE_COLOR}; --r2-moment: {MOMENT_COLOR}; --r2-highlight: {HIGHLIGHT_COLOR}; }}
.dark {{ --r2-curve: {SKY_BLUE}; }}
"""


def launch_app(
    model: str | VideoGroundingPipeline | None = None,
    *,
    library: "str | os.PathLike | Library | None" = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    max_upload_mb: float = MAX_UPLOAD_MB,
    max_duration_sec: float = MAX_DURATION_SEC,
) -> None:
    """Serve the page until the process is interrupted or terminated.

    Args:
        model: A checkpoint folder, the name of a repository on the Hub, or a pipeline; default: the model of the library,
            or without one the small model that comes with the package.
        library: A library to search on a tab of its own, or its folder.
        host: Address to listen on; default: the environment variable GRADIO_SERVER_NAME, else 127.0.0.1, which only this
            machine reaches.
        port: Port to listen on; default: the environment variable GRADIO_SERVER_PORT, else the first free one from 7860.
        share: Also open the page to the internet by a tunnel of Gradio's.
        max_upload_mb: Size of the largest video that is taken, in millions of bytes.
        max_duration_sec: Length of the longest video that is taken, in seconds.

    Raises:
        OSError: The checkpoint, the library or the port cannot be used.
        ValueError: Likewise.
    """
    if isinstance(library, str | os.PathLike):
        from r2tuning.library.library import Library  # needs the extra `library`

        library = Library.open(library, device=choose_device(None))
    pipe = _load_pipeline(model, library)
    served = serving(
        pipe,
        library=library,
        host=host,
        port=port,
        share=share,
        max_upload_mb=max_upload_mb,
        max_duration_sec=max_duration_sec,
    )
    with _until_terminated() as stopped, served as address:
        write_line(sys.stdout, f"The page is at {address} (press Ctrl-C to stop it)")
        with contextlib.suppress(KeyboardInterrupt):
            stopped.wait()


def _load_pipeline(model: str | VideoGroundingPipeline | None, library: "Library | None") -> VideoGroundingPipeline:
    if isinstance(model, VideoGroundingPipeline):
        return model
    if model is None and library is not None:
        return VideoGroundingPipeline(model=library.model, processor=library.processor)
    task: Any = TASK  # transformers' types know its own tasks only
    return pipeline(task, model=model or str(DEFAULT_MODEL))


@contextlib.contextmanager
def serving(
    pipe: VideoGroundingPipeline,
    *,
    library: "Library | None" = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    max_upload_mb: float = MAX_UPLOAD_MB,
    max_duration_sec: float = MAX_DURATION_SEC,
) -> Iterator[str]:
    """Serve the page while the block runs, and remove all its files afterwards; arguments as for `launch_app`.

    Yields:
        Address of the page.
    """
    if port is not None:
        _check_port(host, port)
    for name, value in (("max_upload_mb", max_upload_mb), ("max_duration_sec", max_duration_sec)):
        if not value > 0:
            raise ValueError(f"`{name}` must be above 0, got {value}.")
    with tempfile.TemporaryDirectory(prefix="r2tuning-app-") as folder:
        uploads, pages = Path(folder, "uploads"), Path(folder, "pages")
        uploads.mkdir()
        pages.mkdir()
        # Gradio reads the folder for uploads from the environment, whenever it needs it.
        with _environment("GRADIO_TEMP_DIR", str(uploads)):
            sessions = Sessions(pages)
            page = build_page(Grounder(pipe, sessions, max_duration_sec), library)
            _, local_address, public_address = page.queue().launch(
                server_name=host,
                server_port=port,
                share=share,
                max_file_size=round(max_upload_mb * 1e6),
                allowed_paths=[str(pages)],
                app_kwargs={"middleware": [Middleware(OwnFilesOnly)]},
                theme=gr.themes.Soft(font=FONTS, font_mono=CODE_FONTS),
                css=COLORS + (ASSETS / "app.css").read_text(encoding="utf-8"),
                head=f"<script>{(ASSETS / 'app.js').read_text(encoding='utf-8')}</script>",
                footer_links=[],
                prevent_thread_lock=True,
                ssr_mode=False,
                enable_monitoring=False,
                run_history=False,
                quiet=True,
            )
            try:
                with _closing_unused(sessions):
                    yield public_address or local_address
            finally:
                page.close(verbose=False)


@contextlib.contextmanager
def _closing_unused(sessions: Sessions) -> Iterator[None]:
    """Close pages that are not used any more while the block runs."""
    stopped = threading.Event()

    def close() -> None:
        while not stopped.wait(min(sessions.grace_sec / 10, SWEEP_SEC)):
            sessions.close_unused()

    thread = threading.Thread(target=close, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextlib.contextmanager
def _until_terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the files are removed before the process ends."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # no other thread may set a handler
        yield stopped
        return
    former = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, former)


def _check_port(host: str | None, port: int) -> None:
    host = host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise OSError(f"`port` {port} cannot be used at {host} ({error.strerror}); choose another one.") from error


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable while the block runs."""
    former = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if former is None:
            del os.environ[name]
        else:
            os.environ[name] = former


class OwnFilesOnly:
    """Refuses to fetch files from elsewhere for a browser, which Gradio's server does.

    Args:
        app: The server.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and "/file=http" in scope["path"]:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)


__all__ = ["launch_app", "serving"]
