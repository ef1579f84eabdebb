"""What a search of a library found: as HTML and as files."""

from dataclasses import asdict, replace
from html import escape
from pathlib import Path

from modeling_r2tuning.video_source_r2tuning import display_name
from r2tuning.app.downloads import CLIPS, JSON, Clock, write_zip
from r2tuning.app.markup import play_button, render_table
from r2tuning.editors.document import save_document
from r2tuning.editors.export import write_moments
from r2tuning.library.edits import list_cuts, list_exports
from r2tuning.library.library import SearchAnswer
from r2tuning.visualization.style import format_number, format_probability, format_time


def select(answers: list[SearchAnswer], score_threshold: float, num_moments: int) -> list[SearchAnswer]:
    """The best moments of each answer that have a certain score."""
    selected = []
    for answer in answers:
        moments = [moment for moment in answer.moments[:num_moments] if moment.score >= score_threshold]
        selected.append(replace(answer, moments=moments))
    return selected


def file_name(path: str) -> str:
    """Name of a video of the library; visitors do not see the folders of the server."""
    return display_name(Path(path).name)


def render_found(answers: list[SearchAnswer]) -> str:
    """The moments of a library as a table; a row asks the server for its moment, by its number in the table."""
    rows: list[str] = []
    for answer in answers:
        for rank, moment in enumerate(answer.moments, 1):
            there = "" if moment.probability is None else format_probability(moment.probability)
            is_missing = moment.path in answer.missing
            note = " (the file is missing)" if is_missing else ""
            button = "" if is_missing else play_button(rank, answer.query)
            row = "" if is_missing else f' data-row="{len(rows)}"'
            rows.append(
                f'<tr{row}><td>{button}</td><td class="r2-text">{escape(answer.query)}</td><td>{rank}</td>'
                f'<td class="r2-text">{escape(file_name(moment.path))}{note}</td>'
                f"<td>{format_time(moment.start)}</td><td>{format_time(moment.end)}</td>"
                f"<td>{format_number(moment.score)}</td><td>{there}</td></tr>"
            )
    if not rows:
        return '<p class="r2-hint">Nothing was found.</p>'
    return render_table(["", "query", "rank", "video", "start", "end", "score", "there"], rows)


def write_found(kind: str, folder: Path, answers: list[SearchAnswer], model: str, progress: Clock) -> Path:
    """Write what was found in a library; arguments and errors as for `write_answers`."""
    output = folder / f"moments{'_clips.zip' if kind == CLIPS else kind}"
    if kind == JSON:
        document = {"model": model, "answers": [asdict(answer) for answer in answers]}
        save_document(document, output)
    elif kind == CLIPS:
        write_zip(list_cuts(answers), output, progress)
    else:
        moments, videos = list_exports(answers)
        write_moments(output, moments, videos)
    return output


__all__ = ["file_name", "render_found", "select", "write_found"]
