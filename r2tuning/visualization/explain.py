"""Figures that explain an answer: which patches each word attends to, and how video and text agree in each layer."""

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BatchFeature, PreTrainedTokenizerBase

from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from modeling_r2tuning.video_source_r2tuning import VideoInput
from r2tuning.visualization.fonts import text_style
from r2tuning.visualization.timeline import TRUTH_COLOR, format_time, import_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NUM_FRAMES = 8
FRAME_SIZE = 1.25  # inches
ATTENTION_COLORS, SIMILARITY_COLORS = "inferno", "RdBu_r"


class WordAttention(NamedTuple):
    """Where the words of a query look: the attention of the spatial pooling, Eq. 4.

    Attributes:
        words: The words.
        times: `(num_frames,)`, seconds.
        frames: `(num_frames, height, width, 3)` in [0, 1], as the backbone sees them.
        maps: `(num_words, num_frames, rows, columns)`, share of a word's attention that falls on each patch. The token
            that represents the frame, CLS where there is one, takes the rest.
    """

    words: list[str]
    times: np.ndarray
    frames: np.ndarray
    maps: np.ndarray


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
    names = [processor.tokenizer.decode(token).strip() for token in ids]
    inner = _words_between_marks(ids, processor.tokenizer)
    return WordAttention(
        words=names[inner],
        times=shown / stream.fps,
        frames=_denormalise(pixels[shown], processor),
        maps=maps[inner].float().cpu().numpy(),
    )


def plot_word_attention(found: WordAttention) -> "Figure":
    """Draw a row for each word: its attention laid over the frames (Figure 8).

    Args:
        found: From `word_attention`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    num_words, num_frames = found.maps.shape[:2]
    figure_size = (0.9 + FRAME_SIZE * num_frames, 0.4 + FRAME_SIZE * num_words)
    figure = import_figure()(figsize=figure_size, layout="constrained")
    axes = figure.subplots(num_words, num_frames, squeeze=False)
    style = text_style(found.words)
    for row, word, maps in zip(axes, found.words, found.maps, strict=True):
        for cell, frame, attention in zip(row, found.frames, maps, strict=True):
            # One colour scale for each word: the frames of a row are comparable.
            _draw_attention(cell, frame, attention, highest=maps.max())
        row[0].set_ylabel(word, fontsize=9, parse_math=False, **style)
    for cell, time in zip(axes[0], found.times, strict=True):
        cell.set_title(format_time(time), fontsize=8)
    return figure


def _draw_attention(cell: "Axes", frame: np.ndarray, attention: np.ndarray, highest: float) -> None:
    """Draw a frame with the attention on its patches laid over it; `highest` sets the colour scale."""
    height, width, _ = frame.shape
    extent = (0, width, height, 0)
    cell.imshow(frame, extent=extent)
    cell.imshow(
        attention,
        extent=extent,
        cmap=ATTENTION_COLORS,
        vmin=0,
        vmax=highest,
        alpha=0.55,
        interpolation="bilinear",
    )
    cell.set(xticks=[], yticks=[])


class LayerSimilarity(NamedTuple):
    """How video and text agree in each layer, before and after training.

    Attributes:
        layers: `(num_layers,)`, counted from the end of the encoders: 1 is the last.
        times: `(num_frames,)`, seconds.
        before: `(num_layers, num_frames)`, cosine of frame and text with weights as at the start of training.
        after: `(num_layers, num_frames)`, the same with the weights of the model.
    """

    layers: list[int]
    times: np.ndarray
    before: np.ndarray
    after: np.ndarray


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
    return LayerSimilarity(layers, times, before, after)


def plot_layer_similarity(found: LayerSimilarity, truth: list[tuple[float, float]] | None = None) -> "Figure":
    """Draw two maps of layer against time, before and after training (Figure 9).

    Args:
        found: From `layer_similarity`.
        truth: Annotated moments, start and end in seconds; drawn as lines above the maps.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = import_figure()(figsize=(9, 1.6 + 0.5 * len(found.layers)), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    frame_sec = found.times[1] - found.times[0] if len(found.times) > 1 else 1.0
    end = found.times[-1] + frame_sec
    labels = [f"layer -{layer}" for layer in found.layers]
    maps = {"before training": found.before, "after training": found.after}
    for cell, (title, values) in zip(axes, maps.items(), strict=True):
        extent = (0, end, len(values), 0)
        image = cell.imshow(values, aspect="auto", extent=extent, cmap=SIMILARITY_COLORS, vmin=-1, vmax=1)
        cell.set_title(title, loc="left", fontsize=9)
        cell.set_yticks(np.arange(len(values)) + 0.5, labels, fontsize=8)
        for moment_start, moment_end in truth or []:
            cell.hlines(0, moment_start, moment_end, color=TRUTH_COLOR, linewidth=5, clip_on=False)
    axes[1].set_xlabel("seconds", fontsize=8)
    figure.colorbar(image, ax=axes, label="cosine of frame and text")
    return figure


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
    "plot_layer_similarity",
    "plot_word_attention",
    "word_attention",
]
