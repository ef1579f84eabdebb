"""Answers as HTML: a player, a timeline for each query, and a table. `assets/app.js` makes them play moments."""

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from r2tuning.app.sessions import OpenVideo
from r2tuning.visualization.style import (
    format_number,
    format_probability,
    format_time,
    score_opacities,
    time_ticks,
)
from r2tuning.visualization.timeline import assign_lanes, format_absence


FILES = "gradio_api/file="  # where the server gives files out, relative to the page
MAX_TICKS = 6  # so that their labels fit on a telephone
CURVE_WIDTH, CURVE_HEIGHT = 1000, 100  # units of the drawing, which is stretched to the page
NO_VIDEO = '<p class="r2-hint">Upload a video to watch it here.</p>'
NO_ANSWERS = '<p class="r2-hint">Type what to find, and press <b>Find</b>.</p>'

LEGEND = (
    '<p class="r2-legend"><span><i class="r2-key-curve"></i>saliency</span><span><i class="r2-key-dot"></i>highlight</span>'
    '<span><i class="r2-key-moment"></i>moment (press it to watch it)</span></p>'
)


def file_address(path: Path) -> str:
    """Address of a file of a page, relative to the page's own."""
    return FILES + quote(str(path))


def render_player(video: OpenVideo | None) -> str:
    """A player for the video of a page."""
    if video is None:
        return NO_VIDEO
    return _player(video.played, f"{video.name} ({format_time(video.duration_sec)})")


def render_clip(path: Path, caption: str) -> str:
    """A player that starts at once, for a moment that was cut out."""
    return _player(path, caption, "autoplay")


def _player(path: Path, caption: str, options: str = "") -> str:
    source = escape(file_address(path))
    return (
        f'<figure class="r2-player"><video controls playsinline preload="auto" {options} src="{source}"></video>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def render_answers(answers: list[dict[str, Any]], video: OpenVideo | None, num_moments: int) -> str:
    """The timeline and the table of answers.

    Args:
        answers: One for each query.
        video: The video that they are about.
        num_moments: Largest number of moments of each query.
    """
    if not answers or video is None:
        return NO_ANSWERS
    answers = [{**answer, "moments": answer["moments"][:num_moments]} for answer in answers]
    images = "".join(f'<img src="{address}" alt="">' for address in video.thumbnails)
    rows = "".join(_timeline(answer, video.duration_sec) for answer in answers)
    return (
        f'<div class="r2-answers">{LEGEND}<div class="r2-timeline"><div class="r2-strip">{images}</div>{rows}'
        f"{_axis(video.duration_sec)}</div>{_table(answers)}</div>"
    )


def _timeline(answer: dict[str, Any], duration_sec: float) -> str:
    """Saliency, highlights and moments of a query."""
    absence = format_absence(answer)
    note = ""
    if absence is not None:
        note = f'<b class="r2-absent">{escape(absence)}</b>'
    elif "probability" in answer:
        note = f"<small>there: {format_probability(answer['probability'])}</small>"
    elif not answer["moments"]:
        note = "<small>no moments</small>"
    return (
        f'<section class="r2-query"><h4>{escape(answer["query"])} {note}</h4>'
        f'<div class="r2-curve">{_curve(answer, duration_sec)}<i class="r2-playhead"></i></div>'
        f"{_bars(answer['moments'], duration_sec)}</section>"
    )


def _curve(answer: dict[str, Any], duration_sec: float) -> str:
    """The saliency as a line, stretched to the width of the page, with a dot for each highlight."""
    times = [*answer["frame_times"], duration_sec]
    saliency = [*answer["saliency"], answer["saliency"][-1]]  # the last value holds up to the end
    low, high = min(saliency), max(saliency)
    span = (high - low) or 1.0
    points = []
    for time, value in zip(times, saliency, strict=True):
        x = CURVE_WIDTH * time / duration_sec
        y = CURVE_HEIGHT * (1 - (value - low) / span)
        points.append(f"{x:.1f},{y:.1f}")
    line = " ".join(points)
    dots = []
    for highlight in answer["highlights"]:
        x, y = _percent(highlight["time"], duration_sec), 100 * (highlight["score"] - low) / span
        title = f"highlight at {format_time(highlight['time'])}, saliency {format_number(highlight['score'])}"
        dots.append(f'<i class="r2-dot" style="left:{x:.2f}%;bottom:{y:.1f}%" title="{title}"></i>')
    area = f"0,{CURVE_HEIGHT} {line} {CURVE_WIDTH},{CURVE_HEIGHT}"
    return (
        f'<svg viewBox="0 0 {CURVE_WIDTH} {CURVE_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="saliency from {format_number(low)} to {format_number(high)}"><polygon points="{area}"/><polyline points="{line}"/></svg>'
        + "".join(dots)
    )


def _bars(moments: list[dict[str, float]], duration_sec: float) -> str:
    """Moments as buttons in lanes, in which they do not overlap."""
    lanes = assign_lanes(moments, duration_sec)
    opacities = score_opacities([moment["score"] for moment in moments])
    bars = []
    for rank, (moment, lane, opacity) in enumerate(zip(moments, lanes, opacities, strict=True), 1):
        left = _percent(moment["start"], duration_sec)
        width = _percent(moment["end"] - moment["start"], duration_sec)
        start, end = format_time(moment["start"]), format_time(moment["end"])
        title = f"moment {rank}: {start} to {end}, score {format_number(moment['score'])}"
        place = f"left:{left:.2f}%;width:{width:.2f}%;top:{lane * 1.6:.1f}em;--r2-share:{100 * opacity:.0f}%"
        bars.append(
            f'<button type="button" style="{place}" title="{title}" {_part(moment)} aria-label="Play {title}">{rank}</button>'
        )
    height = 1.6 * (max(lanes, default=-1) + 1)
    return f'<div class="r2-lanes" style="height:{height:.1f}em">{"".join(bars)}</div>'


def _axis(duration_sec: float) -> str:
    ticks = []
    for time_sec, label in time_ticks(duration_sec, MAX_TICKS):
        ticks.append(f'<span style="left:{_percent(time_sec, duration_sec):.2f}%">{label}</span>')
    return f'<div class="r2-axis" aria-label="minutes and seconds">{"".join(ticks)}</div>'


def _table(answers: list[dict[str, Any]]) -> str:
    """All moments; a row plays its moment."""
    rows = []
    for answer in answers:
        for rank, moment in enumerate(answer["moments"], 1):
            start, end = format_time(moment["start"]), format_time(moment["end"])
            rows.append(
                f"<tr {_part(moment)}><td>{play_button(rank, answer['query'])}</td>"
                f'<td class="r2-text">{escape(answer["query"])}</td><td>{rank}</td>'
                f"<td>{start}</td><td>{end}</td><td>{format_number(moment['score'])}</td></tr>"
            )
    if not rows:
        return '<p class="r2-hint">No moment has such a score. Lower the sliders, or ask in other words.</p>'
    return render_table(["", "query", "rank", "start", "end", "score"], rows)


def render_table(columns: list[str], rows: list[str]) -> str:
    """A table.

    Args:
        columns: Titles of the columns.
        rows: As HTML.
    """
    titles = "".join(f"<th>{column}</th>" for column in columns)
    head, body = f"<thead><tr>{titles}</tr></thead>", f"<tbody>{''.join(rows)}</tbody>"
    return f'<div class="r2-scroll"><table class="r2-table">{head}{body}</table></div>'


def play_button(rank: int, query: str) -> str:
    """A button for a row of a table; a click on it is one on the row."""
    return f'<button type="button" aria-label="Play moment {rank} of {escape(query)}">&#9654;</button>'


def _part(moment: dict[str, float]) -> str:
    """Attributes of what plays a moment when it is pressed."""
    return f'data-start="{moment["start"]:.3f}" data-end="{moment["end"]:.3f}"'


def _percent(time_sec: float, duration_sec: float) -> float:
    return 100 * min(time_sec / duration_sec, 1.0)


__all__ = ["file_address", "play_button", "render_answers", "render_clip", "render_player", "render_table"]
