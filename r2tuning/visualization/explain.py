"""Figures that explain an answer: which patches each word attends to, and how video and text agree in each layer."""

import copy
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BatchFeature, PreTrainedTokenizerBase

from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from modeling_r2tuning.video_source_r2tuning import VideoInput
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.style import (
    LABEL_SIZE,
    SMALL_SIZE,
    TEXT_COLOR,
    TIME_LABEL,
    TITLE_SIZE,
    TRUTH_COLOR,
    TRUTH_HATCH,
    fit_text,
    format_number,
    format_probability,
    format_time,
    import_figure,
    label_time,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NUM_FRAMES = 8
WORDS_PER_PAGE = 12
# The first grows lighter throughout; red and blue can be told apart with every kind of colour vision.
ATTENTION_COLORS, SIMILARITY_COLORS = "inferno", "RdBu_r"
OVERLAY = (0.15, 0.9)  # opacity of no attention and of the highest on the grey frame
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # in the text of a token that is part of a character
SIMILARITY_STEP = 0.1  # the limit of the colours is a multiple of it
BYTES_PER_CHARACTER = 4  # at most, in UTF-8

# Places on a page of attention, in inches.
FRAME_SIZE = 0.9  # width of a frame
WORD_WIDTH, HIGHEST_WIDTH, MARGIN = 1.1, 0.65, 0.12
MIN_BAR_WIDTH = 5.6  # of the colour bar, whose label is longer than a few frames are wide
ROW_GAP = 0.06
HEAD_HEIGHT = 0.62  # query, and times above the frames
BAR_TOP, BAR_HEIGHT, BAR_BOTTOM = 0.2, 0.12, 0.5  # of the colour bar: room above it, itself, its numbers and label


class WordAttention(NamedTuple):
    """Where the words of a query look: the attention of the spatial pooling, Eq. 4.

    Attributes:
        words: The words; where the tokenizer cuts a word into pieces, the pieces.
        times: `(num_frames,)`, seconds.
        frames: `(num_frames, height, width, 3)` in [0, 1], as the backbone sees them.
        maps: `(num_words, num_frames, rows, columns)`, share of a word's attention that falls on each patch. The token
            that represents the frame, CLS where there is one, takes the rest.
        query: The query.
    """

    words: list[str]
    times: np.ndarray
    frames: np.ndarray
    maps: np.ndarray
    query: str


def check_word_attention(model: R2TuningForVideoGrounding) -> None:
    """Refuse a model whose attention on patches cannot be shown; call it before work that takes time.

    Raises:
        ValueError: The method of the model does not use patch tokens.
    """
    if not model.r2_block.pools_patches:
        raise ValueError(
            f"A model of the method {model.config.method!r} uses no patch tokens, so there is no attention to show."
        )


@torch.no_grad()
def word_attention(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    video: VideoInput,
    query: str,
    *,
    num_frames: int = NUM_FRAMES,
    recurrent_step: int = -1,
) -> WordAttention:
    """Compute the attention of the query-modulated spatial pooling in evenly spaced frames.

    Args:
        model: The model, in evaluation mode.
        processor: The model's processor.
        video: Path, bytes, binary file object or http(s) address.
        query: Sentence to explain.
        num_frames: Number of frames to show; fewer if the video has fewer.
        recurrent_step: Recurrent step to show, in the order in which they run; default: the last.

    Raises:
        ValueError: The model does not pool patches, or the query or the video is unusable.
    """
    check_word_attention(model)
    stream = processor.stream_video(video)
    pixels = torch.cat(list(stream))
    shown = _spread(len(pixels), num_frames)
    encoded = model.encode_video(pixels, fps=stream.fps, duration_sec=stream.duration_sec, window_sec=None)
    text = processor(text=query)
    words = _project_text(model, text)[recurrent_step]
    layer = model.r2_block.layer_order[recurrent_step]
    [window] = encoded.video_embeds  # one pass, hence one window: (num_steps, num_frames, num_tokens, hidden)
    tokens = window[recurrent_step][shown][None].to(words.dtype)  # (1, shown, num_tokens, hidden)
    attention = model.r2_block.step_for(layer).attend_patches(tokens, words)[0]  # (shown, num_words, num_tokens)
    side = round((attention.shape[2] - 1) ** 0.5)
    maps = attention[:, :, 1:].unflatten(2, (side, side))  # (shown, num_words, rows, columns), without the first token
    maps = maps.transpose(0, 1)  # (num_words, shown, rows, columns)
    ids = text["input_ids"][0][text["attention_mask"][0]].tolist()
    inner = _words_between_marks(ids, processor.tokenizer)
    names, word_maps = _join_characters(ids[inner], maps[inner].float().cpu().numpy(), processor.tokenizer)
    frames = _denormalise(pixels[shown], processor)
    return WordAttention(names, shown / stream.fps, frames, word_maps, " ".join(query.split()))


def plot_word_attention(found: WordAttention) -> "list[Figure]":
    """Draw the frames, and below them for each word a strip with its attention laid over them (Figure 8).

    Each word has colours of its own, from 0 to its highest share of attention on a patch, which stands to the right of
    its strip. Attention is laid over frames in grey.

    Args:
        found: From `word_attention`.

    Returns:
        The pages, with at most `WORDS_PER_PAGE` words each.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure_class = import_figure()
    style = text_style([found.query, *found.words])
    pages = []
    for start in range(0, len(found.words), WORDS_PER_PAGE):
        page = slice(start, start + WORDS_PER_PAGE)
        pages.append(_plot_words(figure_class, found, page, style))
    return pages


def _plot_words(figure_class: "type[Figure]", found: WordAttention, page: slice, style: dict[str, Any]) -> "Figure":
    """Draw a page of words."""
    words, maps = found.words[page], found.maps[page]
    num_frames, frame_height, frame_width, _ = found.frames.shape
    strip_width, strip_height = num_frames * FRAME_SIZE, FRAME_SIZE * frame_height / frame_width
    bar_width = max(strip_width, MIN_BAR_WIDTH)
    width = MARGIN + WORD_WIDTH + bar_width + HIGHEST_WIDTH
    rows_height = (1 + len(words)) * (strip_height + ROW_GAP)
    figure = figure_class(figsize=(width, HEAD_HEIGHT + rows_height + BAR_TOP + BAR_HEIGHT + BAR_BOTTOM))
    title = found.query
    if len(words) < len(found.words):
        title = f"words {page.start + 1} to {page.start + len(words)} of {len(found.words)}: {title}"
    _draw_title(figure, title, style)
    top = HEAD_HEIGHT
    strip = _add_axes(figure, top, strip_width, strip_height)
    _draw_strip(strip, found.frames)
    _label_frames(strip, found.times)
    _write_right(strip, "highest", 0.1)
    for word, attention in zip(words, maps, strict=True):
        top += strip_height + ROW_GAP
        highest = float(attention.max())
        strip = _add_axes(figure, top, strip_width, strip_height)
        _draw_strip(strip, overlay_attention(found.frames, attention, highest))
        label = strip.set_ylabel(word, rotation=0, ha="right", va="center", fontsize=LABEL_SIZE, **style)
        label.set_parse_math(False)
        fit_text(label, WORD_WIDTH)
        _write_right(strip, format_probability(highest) if highest >= 0.01 else "< 1 %", 0.5)
    _draw_attention_bar(_add_axes(figure, HEAD_HEIGHT + rows_height + BAR_TOP, bar_width, BAR_HEIGHT))
    return figure


def _add_axes(figure: "Figure", top: float, width: float, height: float) -> "Axes":
    """Add axes to the right of the words, `top` inches below the upper edge of the figure; sizes are in inches."""
    page_width, page_height = figure.get_size_inches()
    left, bottom = (MARGIN + WORD_WIDTH) / page_width, 1 - (top + height) / page_height
    return figure.add_axes((left, bottom, width / page_width, height / page_height))


def _draw_title(figure: "Figure", title: str, style: dict[str, Any]) -> None:
    width, height = figure.get_size_inches()
    text = figure.text(MARGIN / width, 1 - 0.2 / height, title, va="center", fontsize=TITLE_SIZE, **style)
    text.set_parse_math(False)
    fit_text(text, width - 2 * MARGIN)


def overlay_attention(frames: np.ndarray, attention: np.ndarray, highest: float) -> np.ndarray:
    """Lay the attention on patches over frames in grey.

    Args:
        frames: `(num_frames, height, width, 3)` in [0, 1].
        attention: `(num_frames, rows, columns)`, share of the attention that falls on each patch.
        highest: What the last colour stands for.

    Returns:
        `(num_frames, height, width, 3)` in [0, 1].
    """
    from matplotlib import colormaps

    scaled = torch.from_numpy(attention)[:, None] / max(highest, torch.finfo(torch.float32).tiny)
    scaled = F.interpolate(scaled, size=frames.shape[1:3], mode="bilinear")[:, 0]  # (num_frames, height, width)
    colors = colormaps[ATTENTION_COLORS](scaled.numpy())[..., :3]
    grey = frames.mean(axis=-1, keepdims=True)
    lowest, highest_opacity = OVERLAY
    opacity = lowest + (highest_opacity - lowest) * scaled.numpy()[..., None]
    return opacity * colors + (1 - opacity) * grey


def _draw_strip(axes: "Axes", frames: np.ndarray) -> None:
    """Draw frames side by side as one image, with a thin white line between them."""
    num_frames, height, width, _ = frames.shape
    row = np.concatenate(list(frames), axis=1)  # (height, num_frames * width, 3)
    axes.imshow(row, extent=(0, num_frames, 0, 1), aspect="auto", interpolation="antialiased")
    axes.vlines(range(1, num_frames), 0, 1, color="white", linewidth=1.5)
    axes.set(xticks=[], yticks=[], xlim=(0, num_frames), ylim=(0, 1))
    axes.spines[:].set_visible(False)


def _label_frames(axes: "Axes", times: np.ndarray) -> None:
    """Write the times of the frames above their strip."""
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(times)) + 0.5, [format_time(time) for time in times], fontsize=SMALL_SIZE)
    axes.tick_params(length=0, labelcolor=TEXT_COLOR)
    axes.annotate(
        TIME_LABEL,
        (0, 1),
        (-4, 4),
        "axes fraction",
        "offset points",
        ha="right",
        va="bottom",
        fontsize=SMALL_SIZE,
        color=TEXT_COLOR,
    )


def _write_right(axes: "Axes", text: str, height: float) -> None:
    """Write to the right of a strip, at a share of its height."""
    axes.annotate(
        text,
        (1, height),
        (5, 0),
        "axes fraction",
        "offset points",
        va="center",
        fontsize=SMALL_SIZE,
        color=TEXT_COLOR,
    )


def _draw_attention_bar(axes: "Axes") -> None:
    """Explain the colours, as they look on a frame in middle grey."""
    grey = np.full((1, 1, 256, 3), 0.5)
    colors = overlay_attention(grey, np.linspace(0, 1, 256, dtype=np.float32)[None, None], 1.0)
    axes.imshow(colors[0], extent=(0, 1, 0, 1), aspect="auto")
    axes.set_yticks([])
    axes.set_xticks([0, 0.5, 1], ["0", "half", "highest"], fontsize=SMALL_SIZE)
    axes.tick_params(labelcolor=TEXT_COLOR)
    axes.set_xlabel(
        "share of a word's attention that falls on a patch; the highest of each word stands at the right",
        fontsize=SMALL_SIZE,
        color=TEXT_COLOR,
    )


class LayerSimilarity(NamedTuple):
    """How video and text agree in each layer, before and after training.

    Attributes:
        layers: `(num_layers,)`, counted from the end of the encoders: 1 is the last.
        times: `(num_frames,)`, seconds.
        before: `(num_layers, num_frames)`, cosine of frame and text with weights as at the start of training.
        after: `(num_layers, num_frames)`, the same with the weights of the model.
        query: The query.
    """

    layers: list[int]
    times: np.ndarray
    before: np.ndarray
    after: np.ndarray
    query: str


@torch.no_grad()
def layer_similarity(
    model: R2TuningForVideoGrounding, processor: R2TuningProcessor, video: VideoInput, query: str
) -> LayerSimilarity:
    """Compute the cosine of each frame with the query in every layer that the model reads, before and after training.

    The weights before training are not stored in a checkpoint. They are drawn again by the same initialisation, with a
    fixed seed. The encoders' hidden states are those of the model in both cases.

    Args:
        model: The model, in evaluation mode.
        processor: The model's processor.
        video: Path, bytes, binary file object or http(s) address.
        query: Sentence to explain.

    Raises:
        ValueError: The query or the video is unusable.
    """
    stream = processor.stream_video(video)
    states = model.get_video_hidden_states(torch.cat(list(stream))[None].to(model.device))
    text = processor(text=query)
    before = _similarity(_untrained_copy(model), states, text)
    after = _similarity(model, states, text)
    layers = [model.config.num_recurrent_steps - layer for layer in model.r2_block.layer_order]
    times = np.arange(states.shape[1]) / stream.fps
    return LayerSimilarity(layers, times, before, after, " ".join(query.split()))


def plot_layer_similarity(found: LayerSimilarity, truth: list[tuple[float, float]] | None = None) -> "Figure":
    """Draw two maps of layer against time, before and after training (Figure 9).

    The colours of both maps reach from minus to plus the largest value found; the limit stands beside the colour bar.

    Args:
        found: From `layer_similarity`.
        truth: Annotated moments, start and end in seconds; drawn as hatched bars above the maps.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = import_figure()(figsize=(9, 2.1 + 0.5 * len(found.layers)), layout="constrained")
    title = figure.suptitle(found.query, fontsize=TITLE_SIZE, parse_math=False, **text_style([found.query]))
    fit_text(title, 8.6)
    axes = figure.subplots(2, 1, sharex=True)
    frame_sec = found.times[1] - found.times[0] if len(found.times) > 1 else 1.0
    end = found.times[-1] + frame_sec
    limit = similarity_limit(found)
    labels = [f"layer -{layer}" for layer in found.layers]
    maps = {"before training": found.before, "after training": found.after}
    for cell, (name, values) in zip(axes, maps.items(), strict=True):
        extent = (0, end, len(values), 0)
        image = cell.imshow(values, aspect="auto", extent=extent, cmap=SIMILARITY_COLORS, vmin=-limit, vmax=limit)
        cell.set_title(name, loc="left", fontsize=LABEL_SIZE, pad=10 if truth else None)
        cell.set_yticks(np.arange(len(values)) + 0.5, labels, fontsize=SMALL_SIZE)
        _draw_truth(cell, truth or [])
    label_time(axes[1], end)
    axes[0].tick_params(labelbottom=False)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(f"cosine of frame and query\n(colours fitted to ±{format_number(limit)})", fontsize=SMALL_SIZE)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    bar.set_ticks(ticks, labels=[format_number(tick) for tick in ticks], fontsize=SMALL_SIZE)
    return figure


def similarity_limit(found: LayerSimilarity) -> float:
    """The largest absolute value of both maps, rounded up to a multiple of `SIMILARITY_STEP`."""
    largest = max(np.abs(found.before).max(), np.abs(found.after).max())
    return SIMILARITY_STEP * max(1, math.ceil(largest / SIMILARITY_STEP))


def _draw_truth(axes: "Axes", truth: list[tuple[float, float]]) -> None:
    """Draw annotated moments as hatched bars on the upper edge of a map."""
    upper_edge = axes.get_xaxis_transform()  # x in seconds, y as a share of the height
    for start, end in truth:
        axes.barh(
            1.04,
            end - start,
            0.05,
            start,
            transform=upper_edge,
            clip_on=False,
            facecolor="white",
            edgecolor=TRUTH_COLOR,
            hatch=TRUTH_HATCH,
        )
    if truth:
        axes.annotate("truth", (1, 1.04), (4, 0), "axes fraction", "offset points", va="center", fontsize=SMALL_SIZE)


# ---- helpers -------------------------------------------------------------------------------------------------------


def _spread(count: int, number: int) -> np.ndarray:
    """Indices of the frames in the middle of `number` equal parts of the video; at most `count`."""
    number = min(number, count)
    return ((np.arange(number) + 0.5) * count / number).astype(int)


def _project_text(model: R2TuningForVideoGrounding, text: BatchFeature) -> list[torch.Tensor]:
    return model.project_text(model.get_text_hidden_states(**text.to(model.device)))


def _words_between_marks(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> slice:
    """The tokens of a text without those that mark its start and its end."""
    starts, ends = (tokenizer.bos_token_id, tokenizer.cls_token_id), (tokenizer.eos_token_id, tokenizer.sep_token_id)
    return slice(int(ids[0] in starts), len(ids) - int(ids[-1] in ends))


def _join_characters(
    ids: list[int], maps: np.ndarray, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[str], np.ndarray]:
    """Take tokens that are parts of one character together: a tokenizer of bytes cuts many characters into several.

    Args:
        ids: The tokens.
        maps: `(num_tokens, num_frames, rows, columns)`, their attention.
        tokenizer: The tokenizer.

    Returns:
        The text of each token or character, and its attention, the mean of that of its tokens.
    """
    words, attention = [], []
    first = 0
    for end in range(1, len(ids) + 1):
        word = str(tokenizer.decode(ids[first:end])).strip()
        if UNFINISHED in word and end < min(first + BYTES_PER_CHARACTER, len(ids)):
            continue
        words.append(word)
        attention.append(maps[first:end].mean(axis=0))
        first = end
    return words, np.stack(attention)


def _denormalise(pixels: torch.Tensor, processor: R2TuningProcessor) -> np.ndarray:
    """Turn normalised pixels `(num_frames, 3, height, width)` into frames `(num_frames, height, width, 3)`."""
    mean = torch.tensor(processor.image_processor.image_mean)[:, None, None]
    std = torch.tensor(processor.image_processor.image_std)[:, None, None]
    return (pixels * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _untrained_copy(model: R2TuningForVideoGrounding) -> R2TuningForVideoGrounding:
    """Copy the model with the trained parts initialised again; the global random state is left as it is."""
    untrained = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained.reset_block_and_head()
    return untrained


def _similarity(model: R2TuningForVideoGrounding, states: torch.Tensor, text: BatchFeature) -> np.ndarray:
    """Cosine of the projected frames and the pooled text, `(num_steps, num_frames)`.

    Args:
        model: The model whose projections are used.
        states: `(1, num_frames, num_layers, num_tokens, vision_hidden)`, hidden states of the backbone.
        text: The processor's output for the query.
    """
    words = _project_text(model, text)
    frame_mask = torch.ones(states.shape[:2], dtype=torch.bool, device=model.device)
    text_mask = text["attention_mask"].to(model.device)
    cosines = []
    for tokens, step_words in zip(model.project_video(states, frame_mask), words, strict=True):
        frames = tokens[0, :, 0].float()  # (num_frames, hidden), the tokens that represent the frames
        pooled = model.grounding_head.text_pooling(step_words.float(), text_mask)  # (1, hidden)
        cosines.append(F.cosine_similarity(frames, pooled, dim=-1))
    return torch.stack(cosines).cpu().numpy()


__all__ = [
    "LayerSimilarity",
    "WordAttention",
    "check_word_attention",
    "layer_similarity",
    "overlay_attention",
    "plot_layer_similarity",
    "plot_word_attention",
    "word_attention",
]
