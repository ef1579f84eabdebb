"""The tab for one video."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from r2tuning.app.describe import is_packaged, model_title
from r2tuning.app.downloads import list_formats, write_answers
from r2tuning.app.errors import show_errors
from r2tuning.app.example import make_example
from r2tuning.app.grounding import Choices, Grounder
from r2tuning.app.markup import file_address, render_answers, render_player
from r2tuning.app.sessions import Session
from r2tuning.app.upload import make_video_upload
from r2tuning_cli.defaults import MAX_MOMENTS


# How many calls of a kind run at once; the others wait, and the page says how many are before them.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
FILES: dict[str, Any] = {"concurrency_id": "files", "concurrency_limit": 2, "api_visibility": "private"}
QUICK: dict[str, Any] = {"concurrency_limit": None, "api_visibility": "private"}
DOWNLOAD = "(text) => { const [address, name] = JSON.parse(text); window.r2Download(address, name); }"


class VideoTab:
    """The components of the tab, and what happens when they are used.

    Methods that Gradio calls take the values of components, the request, which names the page, and a progress bar.

    Args:
        grounder: Answers about the videos of all pages.
    """

    def __init__(self, grounder: Grounder):
        self.grounder = grounder
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.upload = make_video_upload(label="Video", height=140)
                self.queries = gr.Textbox(label="What to find", info="A sentence on each line", lines=3)
                self.find = gr.Button("Find", variant="primary")
                self.example = gr.Button("Try an example", visible=is_packaged(grounder.pipe))
                self.choices = add_choices(has_probability=grounder.pipe.model.config.use_existence_head)
            with gr.Column(scale=3, min_width=320):
                self.player = gr.HTML(render_player(None), elem_id="r2-video", js_on_load=None)
                self.answers = gr.HTML(render_answers([], None, 0), elem_id="r2-answers", js_on_load=None)
                add_download(list_formats(is_one_video=True), self.choices, self.write)
        self._connect()

    def _connect(self) -> None:
        """Say what happens when a component is used."""
        shown = [self.player, self.answers]
        # Each upload is opened: one that is replaced meanwhile is abandoned.
        opened = self.upload.upload(self.open, self.upload, shown, trigger_mode="multiple", **FILES)
        opened.success(self.encode, None, self.answers, **MODEL)
        self.upload.clear(self.clear, None, shown, **QUICK)
        asked = gr.on([self.find.click, self.queries.submit], self.ask, self.queries, self.answers, **MODEL)
        tried = self.example.click(self.open_example, None, [self.upload, self.queries, *shown], **FILES)
        answered = tried.success(self.ask, self.queries, self.answers, **MODEL)
        for event in (asked, answered):  # the sliders may have moved meanwhile
            event.success(self.decode, self.choices, self.answers, show_progress="hidden", **QUICK)
        for slider in self.choices:
            slider.change(
                self.decode, self.choices, self.answers, trigger_mode="always_last", show_progress="hidden", **QUICK
            )

    def _session(self, request: gr.Request) -> Session:
        return self.grounder.sessions.get(request.session_hash)

    @show_errors
    def open(
        self,
        upload: tuple[str, str],
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        """Take a video that was uploaded."""
        path, name = upload
        video = self.grounder.open(self._session(request), Path(path), name, progress)
        return render_player(video), render_answers([], video, 0)

    @show_errors
    def open_example(
        self,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[None, str, str, str]:
        """Generate a video and take it."""
        session = self._session(request)
        folder = session.make_folder()
        try:
            path, queries = make_example(folder)
            video = self.grounder.open(session, path, path.name, progress)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return None, "\n".join(queries), render_player(video), render_answers([], video, 0)

    @show_errors
    def clear(self, request: gr.Request) -> tuple[str, str]:
        """Forget the video."""
        session = self._session(request)
        session.show(session.begin(), None)
        return render_player(None), render_answers([], None, 0)

    @show_errors
    def encode(self, request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        """Encode the video, so that the first query is quick too."""
        self.grounder.encode(self._session(request), progress)
        return gr.skip()

    @show_errors
    def ask(self, queries: str, request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        """Ground the queries; `decode` shows the answers."""
        self.grounder.ask(self._session(request), queries, progress)
        return gr.skip()

    @show_errors
    def decode(self, score_threshold: float, num_moments: int, min_probability: float, request: gr.Request) -> str:
        """Show the answers under other choices."""
        video = self._session(request).video
        predictions = None if video is None else video.predictions
        answers = self.grounder.decode(predictions, Choices(score_threshold, num_moments, min_probability))
        return render_answers(answers, video, num_moments)

    @show_errors
    def write(
        self,
        kind: str,
        score_threshold: float,
        num_moments: int,
        min_probability: float,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> str:
        """Write the answers as a file; returns its address and its name."""
        session = self._session(request)
        video = session.video
        if video is None or video.predictions is None:
            raise ValueError("There is nothing to download yet: ask something first.")

        def show_clips(done: int, total: int) -> None:
            session.check_wanted(video)
            progress((done, total), "cutting clips")

        choices = Choices(score_threshold, num_moments, min_probability)
        output = write_answers(
            kind,
            session.make_folder("download"),
            self.grounder.decode(video.predictions, choices),
            video,
            num_moments=num_moments,
            fps=self.grounder.pipe.processor.fps,
            model=model_title(self.grounder.pipe.model.name_or_path),
            progress=show_clips,
        )
        return json.dumps([file_address(output), output.name])


def add_choices(*, has_probability: bool) -> list[Any]:
    """Sliders for the fields of `Choices`, in their order."""
    default = Choices()
    return [
        gr.Slider(0, 1, default.score_threshold, step=0.01, label="Lowest score of a moment"),
        gr.Slider(1, MAX_MOMENTS, default.num_moments, step=1, precision=0, label="Moments of each sentence, at most"),
        gr.Slider(
            0,
            1,
            default.min_probability,
            step=0.01,
            label="Lowest probability that it is there",
            visible=has_probability,
        ),
    ]


def add_download(formats: list[tuple[str, str]], inputs: list[Any], write: Callable[..., str]) -> None:
    """A choice of formats, and a button that writes one and gives it to the browser.

    Args:
        formats: Labels and names.
        inputs: Components whose values `write` takes after the name of the format.
        write: Writes the file; returns its address and name as JSON.
    """
    with gr.Row():
        chosen = gr.Dropdown(formats, label="Download as", filterable=False, scale=3)
        button = gr.Button("Download", scale=1)
    link = gr.Textbox(visible="hidden")
    written = button.click(write, [chosen, *inputs], link, **FILES)
    written.success(None, link, js=DOWNLOAD)


__all__ = ["FILES", "MODEL", "QUICK", "VideoTab", "add_download"]
