"""The page: what it says, and its tabs."""

from typing import TYPE_CHECKING

import gradio as gr

from r2tuning.app.describe import describe_model
from r2tuning.app.grounding import Grounder
from r2tuning.app.video_tab import VideoTab


if TYPE_CHECKING:
    from r2tuning.library.library import Library


TITLE = "Find moments in videos"
# The server removes its own names of uploads; a page has links of its own, which are removed when it is closed.
SWEEP_SEC, KEPT_SEC = 60, 600


def build_page(grounder: Grounder, library: "Library | None" = None) -> gr.Blocks:
    """Lay the page out.

    Args:
        grounder: Answers about single videos.
        library: A library to search on a tab of its own.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEEP_SEC, KEPT_SEC)) as page:
        gr.Markdown(f"# {TITLE}\n\n{describe_model(grounder.pipe)}")
        if library is None:
            VideoTab(grounder)
        else:
            with gr.Tab("One video"):
                VideoTab(grounder)
            with gr.Tab("Library"):
                from r2tuning.app.library_tab import LibraryTab  # needs the extra `library`

                LibraryTab(library, grounder.sessions)

        def leave(request: gr.Request) -> None:
            grounder.sessions.leave(request.session_hash)

        page.unload(leave)
    return page


__all__ = ["build_page"]
