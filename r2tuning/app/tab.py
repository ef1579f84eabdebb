"""What the tabs have in common."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from r2tuning.app.markup import file_address
from r2tuning.app.sessions import OpenVideo, Session, Sessions
from r2tuning_cli.defaults import MAX_MOMENTS


# How many calls of a kind run at once; the others wait, and the page says how many are before them.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
FILES: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 2, "api_visibility": "private"}
QUICK: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
DOWNLOAD = "(text) => { const [address, name] = JSON.parse(text); window.r2Download(address, name); }"


class Tab:
    """A tab of the page.

    Methods that Gradio calls take the values of components, the request, which names the page, and a progress bar.

    Args:
        sessions: The open pages.
    """

    def __init__(self, sessions: Sessions):
        self.sessions = sessions

    def session(self, request: gr.Request) -> Session:
        """The page that a call comes from."""
        return self.sessions.get(request.session_hash)

    @staticmethod
    def add_choices(num_moments: int) -> list[Any]:
        """Sliders for the lowest score and the number of moments.

        Args:
            num_moments: Number of moments at first.
        """
        return [
            gr.Slider(0, 1, 0.0, step=0.01, label="Lowest score of a moment"),
            gr.Slider(1, MAX_MOMENTS, num_moments, step=1, precision=0, label="Moments of each sentence, at most"),
        ]

    @staticmethod
    def add_download(formats: list[tuple[str, str]], inputs: list[Any], write: Callable[..., str]) -> None:
        """A choice of formats, and a button that writes one and gives it to the browser.

        Args:
            formats: Labels and names.
            inputs: Components whose values `write` takes after the name of the format.
            write: Writes the file; returns its `link`.
        """
        with gr.Row():
            chosen = gr.Dropdown(formats, label="Download as", filterable=False, scale=3)
            button = gr.Button("Download", scale=1)
        passed = gr.Textbox(visible="hidden")
        written = button.click(write, [chosen, *inputs], passed, **FILES)
        written.success(None, passed, js=DOWNLOAD)

    @staticmethod
    def act_at_once(sliders: list[Any], function: Callable[..., str], output: Any) -> None:
        """Call a function whenever a slider moves."""
        for slider in sliders:
            slider.change(function, sliders, output, trigger_mode="always_last", show_progress="hidden", **QUICK)


def link(path: Path) -> str:
    """Address and name of a file to download, as `DOWNLOAD` takes them."""
    return json.dumps([file_address(path), path.name])


def counting(session: Session, progress: Any, work: str, video: OpenVideo | None = None) -> Callable[[int, int], None]:
    """A function of the work done and the total, which moves a bar; it ends work that nobody waits for.

    Args:
        session: The page.
        progress: The bar.
        work: What is done.
        video: The video that it is about.
    """

    def count(done: int, total: int) -> None:
        session.check_wanted(video)
        progress((done, total), work)

    return count


__all__ = ["FILES", "MODEL", "QUICK", "Tab", "counting", "link"]
