"""The model as three graphs of tensors: frames, texts and predictions.

Each is a small module around the model's own ones, without checks, and can be traced for any number of frames, words,
videos and queries: by `torch.export`, with `trace`, and by `torch.compile(graph, fullgraph=True)`.

    FramesGraph   pixels, endpoints                          -> video
    TextGraph     input_ids, attention_mask                  -> words
    HeadsGraph    video, words, frame_mask, text_mask        -> predictions
"""

from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding


# Outputs of `HeadsGraph`; those of a head that the model lacks are left out.
PREDICTIONS = ("logits", "boundary_offsets", "saliency_scores", "existence_logits", "points", "point_mask")
MIN_POINTS = 2  # on each level of a traced graph, since torch.export treats an axis of length 1 as a case of its own


class Graph(nn.Module):
    """One of the three graphs.

    Args:
        model: In eval mode; the graph shares its modules.
    """

    outputs: tuple[str, ...]

    def __init__(self, model: R2TuningForVideoGrounding):
        super().__init__()
        self.model = model

    def draw_inputs(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Random inputs, by name; by default small ones."""
        raise NotImplementedError

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """For each input, the axes of any size."""
        raise NotImplementedError

    def other_sizes(self) -> dict[str, int]:
        """Sizes for `draw_inputs`, other than its defaults, with which the graph is traced."""
        raise NotImplementedError


class FramesGraph(Graph):
    """From frames to the projected hidden states that the R2 block reads."""

    outputs = ("video",)

    def forward(self, pixels: torch.Tensor, endpoints: torch.Tensor) -> torch.Tensor:
        """Encode frames once and project them for each of the windows that they belong to.

        The frames may be any part of a video: only the endpoints say where they are in it.

        Args:
            pixels: `(num_frames, 3, height, width)`, normalised.
            endpoints: `(num_windows, num_frames, 2)`: t / T and (t + 1) / T for frame t of a window of T frames, see
                `temporal_endpoints`.

        Returns:
            `(num_steps, num_windows, num_frames, num_tokens, hidden)`.
        """
        states = self.model.get_video_hidden_states(pixels[None], chunk_size=None)
        states = self.model.method.refine_video(states)  # (1, num_frames, num_layers, num_tokens, vision_hidden)
        states = states.expand(endpoints.shape[0], *states.shape[1:])
        return torch.stack(list(self.model.r2_block.project_video_at(states, endpoints)))

    def draw_inputs(self, num_windows: int = 2, num_frames: int = 3) -> dict[str, torch.Tensor]:
        """Random inputs, by name."""
        vision = self.model.config.vision_config
        pixels = torch.randn(num_frames, vision.num_channels, vision.image_size, vision.image_size)
        return {"pixels": pixels, "endpoints": torch.rand(num_windows, num_frames, 2)}

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """For each input, the axes of any size."""
        windows, frames = Dim("num_windows", min=1), Dim("num_frames", min=1)
        return {"pixels": {0: frames}, "endpoints": {0: windows, 1: frames}}

    def other_sizes(self) -> dict[str, int]:
        """Sizes other than those with which the graph is traced."""
        return {"num_windows": 1, "num_frames": 5}


class TextGraph(Graph):
    """From token ids to the projected hidden states of texts."""

    outputs = ("words",)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode texts.

        Args:
            input_ids: `(batch, text_length)`, int64; padded as the processor pads.
            attention_mask: `(batch, text_length)`, bool, `True` = real.

        Returns:
            `(num_steps, batch, text_length, hidden)`.
        """
        states = self.model._text_states(input_ids, None, attention_mask)
        return torch.stack(self.model.project_text(states))

    def draw_inputs(self, batch: int = 2, text_length: int | None = None) -> dict[str, torch.Tensor]:
        """Random inputs, by name; the first text is the longest."""
        length = _example_length(self.model) if text_length is None else text_length
        ids = torch.randint(3, self.model.config.text_config.vocab_size, (batch, length))
        return {"input_ids": ids, "attention_mask": _draw_mask(batch, length)}

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """For each input, the axes of any size."""
        batch, length = Dim("batch", min=1), _length_axis(self.model, 1)
        return {"input_ids": {0: batch, **length}, "attention_mask": {0: batch, **length}}

    def other_sizes(self) -> dict[str, int]:
        """Sizes other than those with which the graph is traced."""
        return {"batch": 4, "text_length": self.model.config.max_text_length}


class HeadsGraph(Graph):
    """From projected states to predictions: the R2 block, the feature pyramid and all heads."""

    def __init__(self, model: R2TuningForVideoGrounding):
        super().__init__(model)
        left_out = set()
        if not model.config.use_moment_head:
            left_out.add("boundary_offsets")
        if not model.config.use_existence_head:
            left_out.add("existence_logits")
        self.outputs = tuple(name for name in PREDICTIONS if name not in left_out)

    def forward(
        self, video: torch.Tensor, words: torch.Tensor, frame_mask: torch.Tensor, text_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Answer some queries about each of some videos, or windows of one.

        A traced graph is for videos that are padded to a multiple of `frame_multiple`, and at least twice that. As in
        the model, padding has no effect.

        Args:
            video: `(num_steps, num_videos, num_frames, num_tokens, hidden)`.
            words: `(num_steps, num_videos, num_queries, text_length, hidden)`.
            frame_mask: `(num_videos, num_frames)`, bool, `True` = real; real frames come first.
            text_mask: `(num_videos, num_queries, text_length)`, bool, `True` = real.

        Returns:
            The tensors named by `outputs`, as in `VideoGroundingOutput`; their batch is `num_videos * num_queries`, all
            queries of the first video first.
        """
        num_videos, num_frames = video.shape[1:3]
        num_queries, text_length = words.shape[2:4]
        # A tracer would otherwise suppose that these sizes may differ.
        for size, equal in (
            (words.shape[1], num_videos),
            (frame_mask.shape[0], num_videos),
            (frame_mask.shape[1], num_frames),
            (text_mask.shape[0], num_videos),
            (text_mask.shape[1], num_queries),
            (text_mask.shape[2], text_length),
        ):
            torch._check(size == equal)
        frame_mask = frame_mask[:, None].expand(-1, num_queries, -1).flatten(0, 1)  # (batch, num_frames)
        texts = list(words.flatten(1, 2).unbind())  # for each step (batch, text_length, hidden)
        predicted, _ = self.model._predict(video.unbind(), texts, frame_mask, text_mask.flatten(0, 1))
        return tuple(predicted[name] for name in self.outputs)

    def draw_inputs(
        self,
        num_videos: int = 2,
        num_queries: int = 3,
        num_frames: int | None = None,
        text_length: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Random inputs, by name; the first video and its first query are the longest."""
        config = self.model.config
        frames = 3 * frame_multiple(self.model) if num_frames is None else num_frames
        length = _example_length(self.model) if text_length is None else text_length
        num_tokens = _num_tokens(self.model) if self.model.r2_block.pools_patches else 1
        text_mask = _draw_mask(num_videos * num_queries, length).unflatten(0, (num_videos, num_queries))
        return {
            "video": torch.randn(config.num_steps, num_videos, frames, num_tokens, config.hidden_size),
            "words": torch.randn(config.num_steps, num_videos, num_queries, length, config.hidden_size),
            "frame_mask": _draw_mask(num_videos, frames),
            "text_mask": text_mask,
        }

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """For each input, the axes of any size."""
        videos, queries = Dim("num_videos", min=1), Dim("num_queries", min=1)
        multiple = frame_multiple(self.model)
        frames: Any = Dim("num_frames", min=MIN_POINTS)
        if multiple > 1:
            frames = multiple * Dim("num_points", min=MIN_POINTS)  # of the coarsest level
        return {
            "video": {1: videos, 2: frames},
            "words": {1: videos, 2: queries, **_length_axis(self.model, 3)},
            "frame_mask": {0: videos, 1: frames},
            "text_mask": {0: videos, 1: queries, **_length_axis(self.model, 2)},
        }

    def other_sizes(self) -> dict[str, int]:
        """Sizes other than those with which the graph is traced."""
        frames, length = MIN_POINTS * frame_multiple(self.model), self.model.config.max_text_length
        return {"num_videos": 1, "num_queries": 2, "num_frames": frames, "text_length": length}


def frame_multiple(model: R2TuningForVideoGrounding) -> int:
    """The number of which the frames of `HeadsGraph` must be a multiple: the greatest stride of the pyramid."""
    return max(model.config.strides)


def _has_fixed_length(model: R2TuningForVideoGrounding) -> bool:
    return model.config.tower_spec.text_attention == "fixed_length"


def _example_length(model: R2TuningForVideoGrounding) -> int:
    longest = model.config.max_text_length
    return longest if _has_fixed_length(model) else min(5, longest)


def _length_axis(model: R2TuningForVideoGrounding, axis: int) -> dict[int, Any]:
    """The axis of the words, unless all texts have the same length."""
    if _has_fixed_length(model):
        return {}
    return {axis: Dim("text_length", min=1, max=model.config.max_text_length)}


def _num_tokens(model: R2TuningForVideoGrounding) -> int:
    """Tokens of a frame, with the one that represents it."""
    vision = model.config.vision_config
    return 1 + (vision.image_size // vision.patch_size) ** 2


def _draw_mask(count: int, length: int) -> torch.Tensor:
    """A random mask `(count, length)` that is padded on the right; the first row is all real."""
    lengths = torch.randint(1, length + 1, (count,))
    lengths[0] = length
    return torch.arange(length) < lengths[:, None]


@torch.no_grad()
def trace(graph: Graph) -> ExportedProgram:
    """Trace a graph with `torch.export` for any number of frames, words, videos and queries."""
    inputs = tuple(graph.draw_inputs().values())
    return torch.export.export(graph, inputs, dynamic_shapes=graph.dynamic_shapes())


def merge_adapters(model: R2TuningForVideoGrounding) -> None:
    """Add the low-rank updates of LoRA to the weights that they adapt, and remove the adapters."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
            module.merge()
            model.set_submodule(name, module.get_base_layer())


__all__ = [
    "PREDICTIONS",
    "FramesGraph",
    "Graph",
    "HeadsGraph",
    "TextGraph",
    "frame_multiple",
    "merge_adapters",
    "trace",
]
