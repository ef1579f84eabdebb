"""Methods of the model that encode a video or queries once and ground them any number of times."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast, overload

import torch
from torch import nn

from .block_r2tuning import FRAMES_AT_ONCE, R2Block, R2BlockOutput
from .configuration_r2tuning import R2TuningConfig
from .encoding_r2tuning import EncodedText, EncodedVideo
from .fingerprint_r2tuning import Fingerprint
from .grounding_r2tuning import Window, ground_windows, join_windows
from .heads_r2tuning import VideoGroundingOutput
from .inputs_r2tuning import check_shape, check_text, video_state_shape
from .method_base_r2tuning import TransferMethod
from .methods_r2tuning import is_learned
from .read_ahead_r2tuning import reading_ahead
from .towers_r2tuning import ENCODERS
from .windows_r2tuning import encode_compact, encode_windows, stream_pixels, stream_windows, window_size


FINGERPRINT_VALUES = 64  # of each trained weight of the method: a step of training changes all of its values


class GroundingMixin:
    """Encode once, ground many queries; mixed into `R2TuningForVideoGrounding`, which has the attributes below."""

    config: R2TuningConfig
    device: torch.device
    r2_block: R2Block
    method: TransferMethod
    _fingerprint: Fingerprint
    get_submodule: Callable[[str], nn.Module]
    get_video_hidden_states: Callable[..., torch.Tensor]
    project_text: Callable[[torch.Tensor], list[torch.Tensor]]
    _text_states: Callable[[torch.Tensor | None, torch.Tensor | None, torch.Tensor], torch.Tensor]
    _predict: Callable[..., tuple[VideoGroundingOutput, R2BlockOutput]]

    @torch.no_grad()
    def encode_video(
        self,
        pixel_values_videos: torch.Tensor | Iterable[torch.Tensor] | None = None,
        *,
        video_hidden_states: torch.Tensor | None = None,
        fps: float | None = None,
        duration_sec: float | None = None,
        window_sec: float | str | None = "config",
        chunk_size: int = 32,
        dtype: torch.dtype | None = None,
        compact: bool = False,
    ) -> EncodedVideo:
        """Encode one video of any length once, so that `ground` can answer any number of queries about it.

        A video longer than `window_sec` is divided into windows that overlap by half. One long pass (`window_sec=None`)
        sees moments that are longer than half a window as a whole, and compares all frames of the video with each
        other. However, its positions exceed those seen in training, and its attention grows with the square of the
        length. Windows keep to the trained length and are better where moments are short compared with the video.

        Args:
            pixel_values_videos: `(num_frames, 3, height, width)`, with or without a batch axis of one, or an iterable
                of such pieces, so that only one window of frames is in memory. A thread reads the iterable two pieces
                ahead, while earlier ones are encoded; when encoding ends early, it closes a generator.
            video_hidden_states: Cached states `(num_frames, num_layers, num_tokens, vision_hidden)` instead.
            fps: Frames per second; default `config.fps`.
            duration_sec: Length of the video in seconds; default `num_frames / fps`.
            window_sec: Longest window in seconds; default `config.window_sec`, `None` = one pass.
            chunk_size: Frames encoded at once.
            dtype: Precision in which the features are kept; default that of the side block, float32. `torch.float16`
                halves their memory.
            compact: Keep each frame once, although windows overlap. That halves the memory of a long video, but `ground`
                has to complete the projection of the frames each time.

        Returns:
            `EncodedVideo`.

        Raises:
            ValueError: No frames, both kinds of input or none, or no frame rate; a `dtype` that cannot hold the features;
                or `compact` with a method that mixes frames.
        """
        fps, window = self._check_times(fps, window_sec)
        dtype = self.r2_block.scale.dtype if dtype is None else dtype
        if (pixel_values_videos is None) == (video_hidden_states is None):
            raise ValueError("Pass either `pixel_values_videos` or `video_hidden_states`, got both or none.")
        if compact:
            self._check_compact()
        with reading_ahead(pixel_values_videos) as pixels:
            if compact:
                pieces = self._stream_begun(pixels, video_hidden_states, chunk_size)
                parts = encode_compact(pieces, lambda begun: self._split_begun(begun, dtype), window)
            else:
                windows = self._stream_windows(pixels, video_hidden_states, chunk_size, window)
                parts = encode_windows(windows, lambda begun: self._project_window(begun, dtype), window)
        if duration_sec is None:
            duration_sec = int(parts["window_starts"][-1] + parts["frame_mask"][-1].sum()) / fps
        return EncodedVideo(
            **parts, fps=float(fps), duration_sec=float(duration_sec), fingerprint=self.get_fingerprint()
        )

    @torch.no_grad()
    def stream_encoded_windows(
        self,
        pixel_values_videos: torch.Tensor | Iterable[torch.Tensor] | None = None,
        *,
        video_hidden_states: torch.Tensor | Iterable[torch.Tensor] | None = None,
        fps: float | None = None,
        window_sec: float | str | None = "config",
        chunk_size: int = 32,
        dtype: torch.dtype | None = None,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Encode one video of any length window by window, so that only one window is in memory.

        Arguments and errors are those of `encode_video`; hidden states may also come in pieces.

        Yields:
            Index of the window's first frame, and its projected hidden states `(num_steps, window_frames, num_tokens,
            hidden)`. The last window may be shorter than the others.
        """
        _, window = self._check_times(fps, window_sec)
        dtype = self.r2_block.scale.dtype if dtype is None else dtype
        with reading_ahead(pixel_values_videos) as pixels:
            for start, begun in self._stream_windows(pixels, video_hidden_states, chunk_size, window):
                yield start, self._project_window(begun, dtype)

    def _check_times(self, fps: float | None, window_sec: float | str | None) -> tuple[float, int | None]:
        """Frame rate and number of frames of a window, with the defaults of the configuration."""
        fps = fps if fps is not None else self.config.fps
        if not 0 < fps < float("inf"):
            raise ValueError(f"`fps` must be positive and finite, got {fps}.")
        seconds = cast("float | None", self.config.window_sec if window_sec == "config" else window_sec)
        if seconds is not None and not seconds > 0:
            raise ValueError(f"`window_sec` must be positive or None, got {seconds}.")
        return fps, window_size(seconds, fps)

    def _check_compact(self) -> None:
        if self.config.method_spec.mixes_frames:
            raise ValueError(
                f"`compact` must be False for the method {self.config.method!r}: it mixes frames, so the hidden states of a "
                "frame differ between windows."
            )

    def _stream_states(
        self,
        pixels: torch.Tensor | Iterable[torch.Tensor] | None,
        states: torch.Tensor | Iterable[torch.Tensor] | None,
        chunk_size: int,
    ) -> Iterator[torch.Tensor]:
        """Hidden states of one video in pieces `(n, num_layers, num_tokens, vision_hidden)`."""
        if states is not None:
            for piece in [states] if isinstance(states, torch.Tensor) else states:
                check_shape("video_hidden_states", piece, video_state_shape(self.config))
                yield piece.to(self.device)
        elif pixels is not None:
            for piece in stream_pixels(pixels, chunk_size, self.device):
                yield self.get_video_hidden_states(piece[None], chunk_size)[0]

    def _stream_begun(
        self,
        pixels: torch.Tensor | Iterable[torch.Tensor] | None,
        states: torch.Tensor | Iterable[torch.Tensor] | None,
        chunk_size: int,
    ) -> Iterator[torch.Tensor]:
        """The part of the projection that is the same in all windows, in pieces, see `_begin_projection`."""
        for piece in self._stream_states(pixels, states, chunk_size):
            for frames in piece.split(FRAMES_AT_ONCE):
                yield self._begin_projection(frames)

    def _stream_windows(
        self,
        pixels: torch.Tensor | Iterable[torch.Tensor] | None,
        states: torch.Tensor | Iterable[torch.Tensor] | None,
        chunk_size: int,
        window: int | None,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Index of the first frame of each window, and its frames from `_begin_projection`."""
        if pixels is not None and self.config.method_spec.mixes_frames:  # frames see those of their window
            for start, frames in stream_windows(stream_pixels(pixels, chunk_size, self.device), window):
                yield start, self._begin_projection(self.get_video_hidden_states(frames[None])[0])
        else:
            yield from stream_windows(self._stream_begun(pixels, states, chunk_size), window)

    def _begin_projection(self, states: torch.Tensor) -> torch.Tensor:
        """Results of `R2Block.begin_projection` in one tensor, `(num_frames, num_steps, num_tokens, hidden + n)`."""
        embeds, statistics = self.r2_block.begin_projection(self.method.refine_video(states[None])[0])
        return torch.cat([embeds, statistics], dim=-1).transpose(0, 1)

    def _split_begun(self, begun: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Undo the joining of `_begin_projection`; the features are converted."""
        hidden = self.config.hidden_size
        embeds, statistics = begun.transpose(0, 1).tensor_split([hidden], dim=-1)
        return _convert(embeds, dtype).contiguous(), statistics.contiguous()

    def _project_window(self, begun: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Projected states of one window, `(num_steps, window_frames, num_tokens, hidden)`."""
        steps = []
        for step, features in enumerate(begun.unbind(1)):
            embeds, statistics = features.tensor_split([self.config.hidden_size], dim=-1)
            steps.append(_convert(self.r2_block.complete_projection(step, embeds, statistics), dtype))
        return torch.stack(steps)

    def get_fingerprint(self) -> str:
        """Hash of the weights that encoded videos and texts depend on, except those of frozen encoders: their `fingerprint`."""
        weights = self.r2_block.projection_weights()
        learned = self.config.method_spec.place == "inside"
        for prefix in (*ENCODERS, "method.") if learned else ("method.",):
            for name, parameter in self.get_submodule(prefix[:-1]).named_parameters(prefix[:-1]):
                if is_learned(name, self.config):
                    weights[name] = parameter.flatten()[:FINGERPRINT_VALUES]
        return self._fingerprint.get(weights, f"{self.config.layer_fusion} {self.config.num_recurrent_steps}")

    @torch.no_grad()
    def encode_text(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        text_hidden_states: torch.Tensor | None = None,
    ) -> EncodedText:
        """Encode queries once, so that `ground` can answer them about any number of videos.

        Args:
            input_ids: `(num_queries, text_length)`.
            attention_mask: `(num_queries, text_length)`, `True` = real; default: all.
            text_hidden_states: `(num_queries, text_length, num_layers, text_hidden)` instead of token ids.

        Raises:
            ValueError: The text is missing or malformed.
        """
        text_mask = check_text(self.config, input_ids, text_hidden_states, attention_mask)
        words = self.project_text(self._text_states(input_ids, text_hidden_states, text_mask))
        return EncodedText(torch.stack(words), text_mask, self.get_fingerprint())

    @overload
    def ground(self, encoded_video: EncodedVideo, *args: Any, **kwargs: Any) -> VideoGroundingOutput: ...

    @overload
    def ground(self, encoded_video: list[EncodedVideo], *args: Any, **kwargs: Any) -> list[VideoGroundingOutput]: ...

    @torch.no_grad()
    def ground(
        self,
        encoded_video: EncodedVideo | list[EncodedVideo],
        encoded_text: EncodedText | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        text_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        batch_size: int = 32,
        output_video_features: bool = False,
    ) -> VideoGroundingOutput | list[VideoGroundingOutput]:
        """Ground any number of queries in one or more encoded videos.

        Args:
            encoded_video: From `encode_video` of this model, or a list of them.
            encoded_text: From `encode_text` of this model.
            input_ids: `(num_queries, text_length)` instead.
            text_hidden_states: `(num_queries, text_length, num_layers, text_hidden)` instead.
            attention_mask: `(num_queries, text_length)`, `True` = real; default: all.
            batch_size: Largest number of pairs of a query and a window that are answered at once.
            output_video_features: Also return `video_features`, which make up nine tenths of the output.

        Returns:
            `VideoGroundingOutput` with one row for each query and window, all windows of the first query first; a list of
            them for a list of videos. `query_index` and `window_starts` identify the rows; post-processing merges the
            windows.

        Raises:
            ValueError: The video or the text was encoded with other weights, or the text is missing or malformed.
        """
        text = self._encoded_text(encoded_text, input_ids, attention_mask, text_hidden_states)
        videos = [encoded_video] if isinstance(encoded_video, EncodedVideo) else list(encoded_video)
        answers: list[list[VideoGroundingOutput]] = [[] for _ in videos]
        windows: list[Window] = []
        for video, rows in zip(videos, answers, strict=True):
            self._check_fingerprint("encoded_video", video)
            windows += self._windows_of(video, rows)
        windows.sort(key=lambda window: window.size)  # windows of one size need no padding
        self._ground_windows(windows, text, batch_size, output_video_features)
        outputs = []
        for video, rows in zip(videos, answers, strict=True):
            outputs.append(join_windows(rows, video.fps, video.duration_sec))
        return outputs[0] if isinstance(encoded_video, EncodedVideo) else outputs

    @torch.no_grad()
    def encode_and_ground(
        self,
        pixel_values_videos: torch.Tensor | Iterable[torch.Tensor],
        encoded_text: EncodedText | None = None,
        *,
        input_ids: torch.Tensor | None = None,
        text_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        fps: float | None = None,
        duration_sec: float | None = None,
        window_sec: float | str | None = "config",
        chunk_size: int = 32,
        batch_size: int = 32,
        output_video_features: bool = False,
    ) -> VideoGroundingOutput:
        """`encode_video` and `ground` in one, for a video that is asked once: only a few windows are in memory.

        Arguments, result and errors are those of the two methods.
        """
        fps, window = self._check_times(fps, window_sec)
        text = self._encoded_text(encoded_text, input_ids, attention_mask, text_hidden_states)
        answers: list[VideoGroundingOutput] = []
        num_frames = 0

        def encode(pixels: torch.Tensor | Iterable[torch.Tensor]) -> Iterator[Window]:
            nonlocal num_frames
            size = None
            for start, begun in self._stream_windows(pixels, None, chunk_size, window):
                num_frames = start + len(begun)
                size = len(begun) if size is None else size  # the last window is padded to that of the first
                mask = torch.arange(size, device=begun.device) < len(begun)
                embeds = self._project_window(begun, self.r2_block.scale.dtype)
                yield Window(embeds.__getitem__, mask, start, answers)

        with reading_ahead(pixel_values_videos) as pixels:
            self._ground_windows(encode(pixels), text, batch_size, output_video_features)
        return join_windows(answers, fps, num_frames / fps if duration_sec is None else duration_sec)

    def _encoded_text(
        self,
        encoded: EncodedText | None,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        states: torch.Tensor | None,
    ) -> EncodedText:
        """The queries of a call, encoded before or now."""
        if encoded is None:
            return self.encode_text(input_ids, attention_mask, text_hidden_states=states)
        if input_ids is not None or states is not None or attention_mask is not None:
            raise ValueError("`encoded_text` holds the queries: pass no token ids, hidden states or mask beside it.")
        self._check_fingerprint("encoded_text", encoded)
        return encoded.to(self.device)

    def _check_fingerprint(self, name: str, encoded: EncodedVideo | EncodedText) -> None:
        if encoded.fingerprint != self.get_fingerprint():
            raise ValueError(f"`{name}` was made with weights other than this model's. Encode it again.")

    def _windows_of(self, video: EncodedVideo, answers: list[VideoGroundingOutput]) -> list[Window]:
        """The windows of an encoded video; their features come to the device when they are needed."""

        def features(window: int, recurrent_step: int) -> torch.Tensor:
            embeds, statistics = video.window_features(window, recurrent_step)
            embeds = embeds.to(self.device, self.r2_block.scale.dtype)
            statistics = None if statistics is None else statistics.to(self.device)
            return self.r2_block.complete_projection(recurrent_step, embeds, statistics)

        starts, masks = video.window_starts.tolist(), video.frame_mask.to(self.device)
        windows = []
        for index, (start, mask) in enumerate(zip(starts, masks, strict=True)):
            windows.append(Window(partial(features, index), mask, start, answers))
        return windows

    def _ground_windows(
        self, windows: Iterable[Window], text: EncodedText, batch_size: int, output_video_features: bool
    ) -> None:
        def predict(*inputs: Any) -> VideoGroundingOutput:
            output, _ = self._predict(*inputs)
            return output if output_video_features else replace(output, video_features=None)

        ground_windows(windows, text, batch_size, predict, self.config.strides)


def _convert(features: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Features in another precision, which must be able to hold them."""
    if not dtype.is_floating_point:
        raise ValueError(f"`dtype` must be a floating-point type such as torch.float16, got {dtype}.")
    converted = features.to(dtype)
    if converted.dtype != features.dtype and not converted.isfinite().all():
        raise ValueError(
            f"`dtype` {dtype} cannot hold the features of this video: use torch.bfloat16 or torch.float32."
        )
    return converted


__all__ = ["GroundingMixin"]
