"""The tab for one video."""

import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from modeling_r2tuning.pipeline_r2tuning import MIN_PROBABILITY
from r2tuning.app.describe import is_packaged, model_title
from r2tuning.app.downloads import list_formats, write_answers
from r2tuning.app.errors import show_errors
from r2tuning.app.example import make_example
from r2tuning.app.grounding import NUM_MOMENTS, Choices, Grounder
from r2tuning.app.markup import render_answers, render_player
from r2tuning.app.tab import FILES, MODEL, QUICK, Tab, counting, link
from r2tuning.app.upload import make_video_upload


class VideoTab(Tab):
    """The components of the tab, and what happens when they are used.

    Args:
        grounder: Answers about the videos of all pages.
    """

    def __init__(self, grounder: Grounder):
        super().__init__(grounder.sessions)
        self.grounder = grounder
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.upload = make_video_upload(label="Video", height=140)
                self.queries = gr.Textbox(label="What to find", info="A sentence on each line", lines=3)
                self.find = gr.Button("Find", variant="primary")
                self.example = gr.Button("Try an example", visible=is_packaged(grounder.pipe))
                self.choices = self.add_choices(NUM_MOMENTS)  # the fields of `Choices`, in their order
                has_head = grounder.pipe.model.config.use_existence_head
                label = "Lowest probability that it is there"
                self.choices.append(gr.Slider(0, 1, MIN_PROBABILITY, step=0.01, label=label, visible=has_head))
            with gr.Column(scale=3, min_width=320):
                self.player = gr.HTML(render_player(None), elem_id="r2-video", js_on_load=None)
                self.answers = gr.HTML(render_answers([], None, 0), elem_id="r2-answers", js_on_load=None)
                self.add_download(list_formats(is_one_video=True), self.choices, self.write)
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
        self.act_at_once(self.choices, self.decode, self.answers)

    @show_errors
    def open(
        self,
        upload: tuple[str, str],
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        """Take a video that was uploaded."""
        path, name = upload
        video = self.grounder.open(self.session(request), Path(path), name, progress)
        return render_player(video), render_answers([], video, 0)

    @show_errors
    def open_example(
        self,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[None, str, str, str]:
        """Generate a video and take it."""
        session = self.session(request)
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
        session = self.session(request)
        session.show(session.begin(), None)
        return render_player(None), render_answers([], None, 0)

    @show_errors
    def encode(self, request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        """Encode the video, so that the first query is quick too."""
        self.grounder.encode(self.session(request), progress)
        return gr.skip()

    @show_errors
    def ask(self, queries: str, request: gr.Request, progress: Any = gr.Progress()) -> Any:  # noqa: B008
        """Ground the queries; `decode` shows the answers."""
        self.grounder.ask(self.session(request), queries, progress)
        return gr.skip()

    @show_errors
    def decode(self, score_threshold: float, num_moments: int, min_probability: float, request: gr.Request) -> str:
        """Show the answers under other choices."""
        video = self.session(request).video
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
        session = self.session(request)
        video = session.video
        if video is None or video.predictions is None:
            raise ValueError("There is nothing to download yet: ask something first.")
        choices = Choices(score_threshold, num_moments, min_probability)
        output = write_answers(
            kind,
            session.make_folder("download"),
            self.grounder.decode(video.predictions, choices),
            video,
            num_moments=num_moments,
            fps=self.grounder.pipe.processor.fps,
            model=model_title(self.grounder.pipe.model.name_or_path),
            progress=counting(session, progress, "cutting clips", video),
        )
        return link(output)


__all__ = ["VideoTab"]
