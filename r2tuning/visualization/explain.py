"""Pictures of how a model came to its answer: where each word looks, and how video and text agree layer by layer."""

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor
from modeling_r2tuning.video_source_r2tuning import VideoInput

from .timeline import format_time, import_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure


NUM_FRAMES = 8
CELL = 1.25  # inches of a picture
ATTENTION_COLORS, SIMILARITY_COLORS = "inferno", "RdBu_r"


class WordAttention(NamedTuple):
    """Where the words of a query look, Eq. 4.

    Attributes:
        words: The words.
        times: `(num_pictures,)`, seconds.
        pictures: `(num_pictures, height, width, 3)` in [0, 1], what CLIP sees.
        maps: `(num_words, num_pictures, rows, columns)`, share of the attention that falls on each patch.
    """

    words: list[str]
    times: np.ndarray
    pictures: np.ndarray
    maps: np.ndarray


@torch.no_grad()
def word_attention(
    model: R2TuningForVideoGrounding,
    processor: R2TuningProcessor,
    video: VideoInput,
    query: str,
    *,
    num_pictures: int = NUM_FRAMES,
    step: int = -1,
) -> WordAttention:
    """The query-modulated spatial pooling in pictures at equal distances.

    Args:
        model: In eval mode.
        processor: The model's.
        video: Path, bytes, binary file object or http(s) address.
        query: What to look for.
        num_pictures: How many pictures of the video.
        step: Recurrent step, in the order in which they run.

    Raises:
        ValueError: The model does not pool patches, or the query or the video is unusable.
    """
    if not model.r2_block.pools_patches:
        raise ValueError(f"A model of the method {model.config.method!r} looks at no patches.")
    stream = processor.stream_video(video)
    pixels = torch.cat(list(stream))
    chosen = _spread(len(pixels), num_pictures)
    encoded = model.encode_video(pixels, fps=stream.fps, duration_sec=stream.duration_sec, window_sec=None)
    text = processor(text=query)
    words = _project_text(model, text)[step]
    layer = model.r2_block.layer_order[step]
    tokens = encoded.video_embeds[0][step][chosen][None].to(words.dtype)
    attention = model.r2_block._step(layer).attend_patches(tokens, words)[0]  # (num_pictures, num_tokens, words)
    side = round((attention.shape[1] - 1) ** 0.5)
    maps = attention[:, 1:].unflatten(1, (side, side)).permute(3, 0, 1, 2)
    names = [processor.tokenizer.decode(token).strip() for token in text["input_ids"][0]]
    inner = slice(1, len(names) - 1)  # without start and end
    times = chosen / stream.fps
    return WordAttention(
        names[inner], times, _to_pictures(pixels[chosen], processor), maps[inner].float().cpu().numpy()
    )


def plot_word_attention(found: WordAttention) -> "Figure":
    """A row for each word with its attention laid over the pictures (Figure 8).

    Raises:
        ImportError: matplotlib is not installed.
    """
    num_words, num_pictures = found.maps.shape[:2]
    figure = import_figure()(figsize=(0.9 + CELL * num_pictures, 0.4 + CELL * num_words), layout="constrained")
    axes = figure.subplots(num_words, num_pictures, squeeze=False)
    height, width, _ = found.pictures.shape[1:]
    for row, word, maps in zip(axes, found.words, found.maps, strict=True):
        for cell, picture, attention in zip(row, found.pictures, maps, strict=True):
            cell.imshow(picture, extent=(0, width, height, 0))
            cell.imshow(
                attention,
                extent=(0, width, height, 0),
                cmap=ATTENTION_COLORS,
                vmin=0,
                vmax=maps.max(),
                alpha=0.55,
                interpolation="bilinear",
            )
            cell.set(xticks=[], yticks=[])
        row[0].set_ylabel(word, fontsize=9, parse_math=False)
    for cell, time in zip(axes[0], found.times, strict=True):
        cell.set_title(format_time(time), fontsize=8)
    return figure


class LayerSimilarity(NamedTuple):
    """How video and text agree in each layer.

    Attributes:
        layers: `(num_layers,)`, counted from the end of CLIP: 1 is the last.
        times: `(num_frames,)`, seconds.
        before: `(num_layers, num_frames)`, cosine of frame and text with the weights that training began with.
        after: The same with the model's.
    """

    layers: list[int]
    times: np.ndarray
    before: np.ndarray
    after: np.ndarray


@torch.no_grad()
def layer_similarity(
    model: R2TuningForVideoGrounding, processor: R2TuningProcessor, video: VideoInput, query: str
) -> LayerSimilarity:
    """Cosine of each frame with the query in every layer that is read, before and after training.

    What training began with is drawn anew, in the way it was then; CLIP's states are the model's in both. Arguments are
    those of `word_attention`.
    """
    stream = processor.stream_video(video)
    states = model.get_video_hidden_states(torch.cat(list(stream))[None].to(model.device))
    text = processor(text=query)
    untrained = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in (untrained.r2_block, untrained.grounding_head):
            for module in reversed(list(part.modules())):
                untrained._init_weights(module)
    before, after = (_similarity(each, states, text) for each in (untrained, model))
    layers = [model.config.num_recurrent_steps - layer for layer in model.r2_block.layer_order]
    return LayerSimilarity(layers, np.arange(states.shape[1]) / stream.fps, before, after)


def plot_layer_similarity(found: LayerSimilarity, truth: list[tuple[float, float]] | None = None) -> "Figure":
    """Two maps of layer and time, before and after training (Figure 9).

    Args:
        found: From `layer_similarity`.
        truth: True moments, drawn as lines above the maps.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = import_figure()(figsize=(9, 1.6 + 0.5 * len(found.layers)), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    end = found.times[-1] + (found.times[1] - found.times[0] if len(found.times) > 1 else 1.0)
    for cell, title, values in zip(
        axes, ("before training", "after training"), (found.before, found.after), strict=True
    ):
        image = cell.imshow(
            values, aspect="auto", extent=(0, end, len(values), 0), cmap=SIMILARITY_COLORS, vmin=-1, vmax=1
        )
        cell.set_title(title, loc="left", fontsize=9)
        cell.set_yticks(np.arange(len(values)) + 0.5, [f"layer -{layer}" for layer in found.layers], fontsize=8)
        for start, stop in truth or []:
            cell.hlines(0, start, stop, color="#3a7d44", linewidth=5, clip_on=False)
    axes[1].set_xlabel("seconds", fontsize=8)
    figure.colorbar(image, ax=axes, label="cosine of frame and text")
    return figure


# ---- helpers -------------------------------------------------------------------------------------------------------


def _spread(count: int, number: int) -> np.ndarray:
    """The middles of `number` equal parts, at most one for each."""
    number = min(number, count)
    return ((np.arange(number) + 0.5) * count / number).astype(int)


def _project_text(model: R2TuningForVideoGrounding, text: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return model._project_text(model.get_text_hidden_states(text["input_ids"].to(model.device)))


def _to_pictures(pixels: torch.Tensor, processor: R2TuningProcessor) -> np.ndarray:
    """Undo the normalisation."""
    mean, std = (
        torch.tensor(value)[:, None, None]
        for value in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    return (pixels * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def _similarity(model: R2TuningForVideoGrounding, states: torch.Tensor, text: dict[str, torch.Tensor]) -> np.ndarray:
    """`(num_steps, num_frames)`, cosine of projected frames and pooled text."""
    mask = torch.ones(states.shape[:2], dtype=torch.bool, device=model.device)
    words = _project_text(model, text)
    word_mask = torch.ones(words[0].shape[:2], dtype=torch.bool, device=model.device)
    frames = [tokens[0, :, 0].float() for tokens in model._project_video(states, mask)]
    texts = [model.grounding_head.text_pooling(each.float(), word_mask) for each in words]
    cosines = [F.cosine_similarity(frame, pooled, dim=-1) for frame, pooled in zip(frames, texts, strict=True)]
    return torch.stack(cosines).cpu().numpy()


__all__ = [
    "LayerSimilarity",
    "WordAttention",
    "layer_similarity",
    "plot_layer_similarity",
    "plot_word_attention",
    "word_attention",
]
