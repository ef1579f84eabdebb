"""The tab for a library."""

import os
import secrets
import time
from typing import Any

import gradio as gr

from modeling_r2tuning.video_io_r2tuning import cut_clip, iter_video_frames
from r2tuning.app.describe import model_title
from r2tuning.app.downloads import list_formats
from r2tuning.app.errors import show_errors
from r2tuning.app.found import file_name, render_found, select, write_found
from r2tuning.app.grounding import split_queries
from r2tuning.app.markup import NO_ANSWERS, render_clip
from r2tuning.app.sessions import Sessions
from r2tuning.app.tab import FILES, MODEL, QUICK, Tab, counting, link
from r2tuning.library.library import NUM_WINDOWS, Library
from r2tuning.visualization.style import format_time
from r2tuning_cli.defaults import MAX_MOMENTS


NUM_MOMENTS = 10  # of a query, at first
NO_CLIP = '<p class="r2-hint">Press a moment to watch it.</p>'
# Tells the server which row of the table was pressed.
PRESS = """\
element.addEventListener("click", (event) => {
  const row = event.target.closest("[data-row]");
  if (row) trigger("select", { index: Number(row.dataset.row) });
});
"""


class LibraryTab(Tab):
    """The components of the tab, and what happens when they are used.

    The browser gets no file of the library, only moments that are cut out when they are pressed.

    Args:
        library: The library.
        sessions: The open pages.
    """

    def __init__(self, library: Library, sessions: Sessions):
        super().__init__(sessions)
        self.library = library
        gr.Markdown(describe_library(library))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.queries = gr.Textbox(label="What to find", info="A sentence on each line", lines=3)
                self.find = gr.Button("Search", variant="primary")
                self.choices = self.add_choices(NUM_MOMENTS)
                self.windows = gr.Slider(
                    5,
                    200,
                    NUM_WINDOWS,
                    step=5,
                    precision=0,
                    label="Windows looked at",
                    info="More find more, and take longer",
                )
            with gr.Column(scale=3, min_width=320):
                self.player = gr.HTML(NO_CLIP, js_on_load=None)
                self.status = gr.Markdown()
                self.table = gr.HTML(NO_ANSWERS, js_on_load=PRESS)
                self.add_download(list_formats(is_one_video=False), self.choices, self.write)
        self._connect()

    def _connect(self) -> None:
        """Say what happens when a component is used."""
        asked = [self.queries, self.windows]
        searched = gr.on([self.find.click, self.queries.submit], self.search, asked, self.status, **MODEL)
        searched.success(self.show, self.choices, self.table, show_progress="hidden", **QUICK)
        self.table.select(self.play, self.choices, self.player, **FILES)
        self.act_at_once(self.choices, self.show, self.table)

    @show_errors
    def search(
        self,
        queries: str,
        num_windows: int,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> str:
        """Search the library; `show` shows what was found."""
        session = self.session(request)
        started = time.perf_counter()
        session.found = self.library.search(
            split_queries(queries),
            MAX_MOMENTS,
            num_windows=num_windows,
            progress=counting(session, progress, "searching"),
        )
        status = f"Searched {len(self.library.videos()):,} videos in {time.perf_counter() - started:.1f} s."
        skipped: dict[str, str] = {}
        for answer in session.found:
            skipped |= answer.skipped
        for path, reason in skipped.items():
            status += f"\n\n`{file_name(path)}` was not searched: {reason.replace(path, file_name(path))}"
        return status

    @show_errors
    def show(self, score_threshold: float, num_moments: int, request: gr.Request) -> str:
        """Show what was found under other choices."""
        found = self.session(request).found
        return render_found(select(found, score_threshold, num_moments)) if found else NO_ANSWERS

    @show_errors
    def play(self, score_threshold: float, num_moments: int, request: gr.Request, event: gr.EventData) -> str:
        """Cut out the moment whose row was pressed and play it."""
        session = self.session(request)
        moments = []
        for answer in select(session.found, score_threshold, num_moments):
            moments += answer.moments
        if event.index >= len(moments):
            raise ValueError("The table is older than what the server knows: search again.")
        moment = moments[event.index]
        name = file_name(moment.path)
        if not os.path.isfile(moment.path):
            raise ValueError(f"'{name}' is missing.")
        # Another name each time: browsers may keep what they have played.
        output = session.make_folder("clip") / f"{secrets.token_urlsafe(4)}.mp4"
        end = min(moment.end, iter_video_frames(moment.path, 1.0).duration_sec)
        cut_clip(moment.path, output, moment.start, end)
        return render_clip(output, f"{name}, {format_time(moment.start)} to {format_time(moment.end)}")

    @show_errors
    def write(
        self,
        kind: str,
        score_threshold: float,
        num_moments: int,
        request: gr.Request,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> str:
        """Write what was found as a file; returns its address and its name."""
        session = self.session(request)
        found = select(session.found, score_threshold, num_moments)
        if not found:
            raise ValueError("There is nothing to download yet: search for something first.")
        missing: set[str] = set()
        for answer in found:
            missing.update(file_name(path) for path in answer.missing)
        if missing:
            gr.Warning(f"Moments of videos that are missing are left out: {', '.join(sorted(missing))}.")
        folder = session.make_folder("download")
        model = model_title(self.library.settings.model)
        return link(write_found(kind, folder, found, model, counting(session, progress, "cutting clips")))


def describe_library(library: Library) -> str:
    """Markdown that says what a library holds."""
    videos = library.videos()
    hours = sum(video.duration_sec for video in videos) / 3600
    name = model_title(library.settings.model)
    return f"Videos: {len(videos):,}. Hours: {hours:,.1f}. Model: **{name}**."


__all__ = ["LibraryTab"]
