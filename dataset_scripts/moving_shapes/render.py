"""Pixels of Moving Shapes: frames and identity maps of a scene, and the video file.

Objects that move, grow or spin are drawn with motion blur and a trail. Frame n is exposed for its whole time, the seconds
[n / FPS, (n + 1) / FPS), so an object is blurred along its path: this shows the line of the movement, but not its
direction. A trail of the object's earlier places in the same action fades within `trail_sec`: it shows the direction, and
forms a halo around an object that shrinks or spins. No single frame shows that an object grows. With `trail_sec=0` the
direction is also visible only by comparing frames.

All frames of a segment are drawn at once, in the rectangle that the object sweeps.
"""

import math
import os
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from dataset_scripts.files import writing

from .scenes import FPS, Scene, SceneObject, Segment, Shot


DEFAULT_SIZE = 64
DEFAULT_TRAIL_SEC = 1.0
EXPOSURE_SEC = 1 / FPS
BRIGHTEST_TRAIL = 0.6  # opacity of the trail at the object
IDENTITY_SIZE = 64  # size of the maps that decide visibility, so that annotations do not depend on the frame size
BLINK_FRAMES = (
    3  # lit, then as many dimmed: sampling at 1 or 2 frames per second sees both states in a period of 1.5 s
)
DIMMED = 0.3  # opacity of a dimmed object
# With "mbtree", x264 sometimes encodes the same frames differently, even on one thread.
ENCODING = {"preset": "veryfast", "crf": "22", "mbtree": "0"}
NOISE_VALUES = 2**20
CHUNK_PIXELS = 2**17  # frames are drawn in chunks that fit into the processor's cache


# ---- shapes --------------------------------------------------------------------------------------------------------


def _circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sqrt(u * u + v * v) - 1


def _blob(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.4 * (u * u + v * v) - 0.4  # with a soft edge


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(np.sqrt(u * u + v * v) - 0.75) - 0.25


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.86


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u) * 0.8660254 - v * 0.5, v) - 0.65  # points up


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 1, v - 0.36), np.maximum(u - 0.36, v - 1))


# Distance of a point to a shape of radius 1 about the origin, negative inside.
OUTSIDE = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
    "blob": _blob,
}


def _coverage(shape: str, poses: np.ndarray, rows: slice, columns: slice, size: int) -> np.ndarray:
    """Share of each pixel of a rectangle that a shape covers: `(..., height, width)` for `poses (..., 4)`."""
    parts = np.ascontiguousarray(np.moveaxis(poses, -1, 0), dtype=np.float32)
    x, y, radius, angle = parts[..., None, None]  # each (..., 1, 1)
    u = ((np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / size - x) / radius
    v = ((np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5) / size - y) / radius
    if angle.any():
        cos, sin = np.cos(angle), np.sin(angle)
        u, v = cos * u + sin * v, cos * v - sin * u
    return np.minimum(np.maximum(0.5 - OUTSIDE[shape](u, v) * (radius * size), 0), 1)


def _rectangle(poses: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns that contain a shape in all its poses."""
    reach = 1.5 * float(poses[..., 2].max())  # larger than every entry of `SHAPES`
    return _span(poses[..., 1], reach, size), _span(poses[..., 0], reach, size)


def _span(centers: np.ndarray, reach: float, size: int) -> slice:
    low, high = math.floor((centers.min() - reach) * size), math.ceil((centers.max() + reach) * size)
    return slice(max(low, 0), max(min(high, size), 0))


def _segments(item: SceneObject, start: int, stop: int) -> Iterator[tuple[Segment, np.ndarray]]:
    """Segments with frames from `start` to before `stop`, and the indices of these frames."""
    for segment in item.segments:
        first, last = max(segment.start_sec * FPS, start), min(segment.end_sec * FPS, stop)
        if first < last:
            yield segment, np.arange(first, last)


def _segment_poses(segment: Segment, times_sec: np.ndarray) -> np.ndarray:
    """Poses `(..., 4)` at times `(...)` inside a segment."""
    share = (times_sec - segment.start_sec) / (segment.end_sec - segment.start_sec)
    first, last = np.array(segment.start), np.array(segment.end)
    return first + share[..., None] * (last - first)


# ---- frames --------------------------------------------------------------------------------------------------------


def render_frames(
    scene: Scene,
    start: int,
    stop: int,
    *,
    size: int = DEFAULT_SIZE,
    trail_sec: float = DEFAULT_TRAIL_SEC,
    exposure_sec: float = EXPOSURE_SEC,
) -> np.ndarray:
    """Draw the frames of a scene from index `start` to before `stop`.

    Args:
        scene: The scene.
        start: Index of the first frame.
        stop: Index after the last frame.
        size: Height and width in pixels.
        trail_sec: Duration of the trail behind moving objects; 0 = no trail.
        exposure_sec: Exposure of a frame, at most `1 / FPS`; 0 = no motion blur.

    Returns:
        `np.ndarray` of shape `(stop - start, size, size, 3)`, uint8 RGB.
    """
    step = max(1, CHUNK_PIXELS // size**2)
    frames = np.empty((stop - start, size, size, 3), dtype=np.uint8)
    offsets = _noise_offsets(scene, size)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        canvas = _draw_background(scene, first, last, size)
        for item in (*scene.distractors, *scene.objects):
            _draw_object(canvas, item, first, size, trail_sec, exposure_sec)
        _add_light_and_noise(canvas, scene, first, offsets)
        frames[first - start : last - start] = canvas
    return frames


def _draw_object(
    canvas: np.ndarray, item: SceneObject, first: int, size: int, trail_sec: float, exposure_sec: float
) -> None:
    """Draw an object over the frames `canvas (num_frames, size, size, 3)`, the first of which has the index `first`."""
    for segment, indices in _segments(item, first, first + len(canvas)):
        times = (indices[:, None] + 0.5) / FPS
        if segment.start == segment.end:  # all frames are the same
            offsets, opacities = _instants(size, 0, 0)
            times = times[:1]
        else:
            offsets, opacities = _instants(size, trail_sec, exposure_sec)
        poses = _segment_poses(segment, np.maximum(times + offsets, segment.start_sec))
        rows, columns = _rectangle(poses, size)
        covers = _coverage(item.shape, poses, rows, columns, size)  # (num_frames, num_instants, height, width)
        in_exposure = len(offsets) - len(opacities)
        cover = covers[:, :in_exposure].mean(axis=1)
        if len(opacities):
            cover = np.maximum(cover, (covers[:, in_exposure:] * opacities).max(axis=1))
        if segment.action == "blinks":
            cover = cover * np.where(is_lit(segment, indices), 1, DIMMED).astype(np.float32)[:, None, None]
        region = canvas[indices[0] - first : indices[-1] + 1 - first, rows, columns]
        region += cover[..., None] * (np.array(item.rgb, dtype=np.float32) - region)


@lru_cache(maxsize=16)
def _instants(size: int, trail_sec: float, exposure_sec: float) -> tuple[np.ndarray, np.ndarray]:
    """Instants that are visible in a frame, in seconds from its middle.

    Returns:
        The instants `(num_instants,)`, those of the exposure before those of the trail, and the opacities of the latter
        `(num_trail_instants, 1, 1)`.
    """
    number = max(8, size // 8)
    exposure = exposure_sec * np.linspace(-0.5, 0.5, number) if exposure_sec else np.zeros(1)
    ages = np.arange(1, number + 1) / (number + 1) if trail_sec else np.zeros(0)
    opacities = BRIGHTEST_TRAIL * (1 - ages).astype(np.float32)
    return np.concatenate([exposure, -trail_sec * ages]), opacities[:, None, None]


def is_lit(segment: Segment, indices: np.ndarray) -> np.ndarray:
    """Whether a blinking object is lit, not dimmed, in the frames with these indices."""
    return (indices + segment.phase) // BLINK_FRAMES % 2 == 0


def _draw_background(scene: Scene, first: int, last: int, size: int) -> np.ndarray:
    """The drifting textures `(last - first, size, size, 3)`, float32."""
    canvas = np.empty((last - first, size, size, 3), dtype=np.float32)
    starts = [shot.start_sec for shot in scene.shots]
    indices = np.arange(first, last)
    shots = np.searchsorted(starts, indices / FPS, side="right") - 1
    for number in np.unique(shots):
        shot = scene.shots[number]
        tile, tint = _texture(shot, size), np.array(shot.tint, dtype=np.float32)
        seconds = indices[shots == number, None] / FPS - shot.start_sec
        corners = (np.floor(seconds * shot.drift * size) % size).astype(int).tolist()
        for frame, (x, y) in zip(np.flatnonzero(shots == number).tolist(), corners, strict=True):
            np.multiply(tile[y : y + size, x : x + size, None], tint, out=canvas[frame])
    return canvas


@lru_cache(maxsize=4)
def _texture(shot: Shot, size: int) -> np.ndarray:
    """Brightness `(2 * size, 2 * size)` with the period `size`: a coarse and a fine random pattern."""
    random = np.random.default_rng(shot.seed)
    pattern = np.full((size, size), shot.level, dtype=np.float32)
    for cells, contrast in ((shot.cells, shot.contrast), (3 * shot.cells, 0.5 * shot.contrast)):
        weights = _interpolation(size, cells)
        pattern += contrast * (weights @ random.standard_normal((cells, cells), dtype=np.float32) @ weights.T)
    return np.tile(pattern, (2, 2))


@lru_cache(maxsize=64)
def _interpolation(size: int, cells: int) -> np.ndarray:
    """Weights `(size, cells)` that interpolate `cells` values linearly over `size` pixels, with periodic boundary."""
    place = (np.arange(size) + 0.5) * cells / size - 0.5
    low = np.floor(place).astype(int)
    weights = np.zeros((size, cells), dtype=np.float32)
    weights[np.arange(size), low % cells] += 1 - (place - low)
    weights[np.arange(size), (low + 1) % cells] += place - low
    return weights


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Random numbers that all frames share: drawing new ones would take longer than everything else."""
    return np.random.default_rng(0).standard_normal(NOISE_VALUES, dtype=np.float32)


def _noise_offsets(scene: Scene, size: int) -> list[int]:
    """Where each frame's part of the noise begins."""
    random = np.random.default_rng(scene.noise_seed)
    return random.integers(NOISE_VALUES - size * size * 3, size=scene.num_frames).tolist()


def _add_light_and_noise(canvas: np.ndarray, scene: Scene, first: int, offsets: list[int]) -> None:
    amplitude, period, phase = scene.brightness
    seconds = (first + np.arange(len(canvas))) / FPS
    gains = (1 + amplitude * np.sin(2 * np.pi * seconds / period + phase)).tolist()
    noise = _noise()
    for frame, gain, offset in zip(canvas, gains, offsets[first : first + len(canvas)], strict=True):
        frame *= gain
        frame += scene.noise * noise[offset : offset + frame.size].reshape(frame.shape)
    np.maximum(canvas, 0, out=canvas)
    np.minimum(canvas, 255, out=canvas)


# ---- identity maps -------------------------------------------------------------------------------------------------


def render_identities(scene: Scene, size: int = IDENTITY_SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Which object is visible at each pixel, in the middle of each frame's exposure.

    Args:
        scene: The scene.
        size: Height and width in pixels.

    Returns:
        `(num_frames, size, size)` uint8, 0 where no object is visible, else 1 + its index in `scene.objects`; and
        `(num_objects, num_frames)`, the number of pixels of each object, visible or hidden.
    """
    identities = np.zeros((scene.num_frames, size, size), dtype=np.uint8)
    areas = np.zeros((len(scene.objects), scene.num_frames))
    for number, item in enumerate(scene.objects):
        for segment, indices in _segments(item, 0, scene.num_frames):
            poses = _segment_poses(segment, (indices + 0.5) / FPS)
            rows, columns = _rectangle(poses, size)
            inside = _coverage(item.shape, poses, rows, columns, size) >= 0.5
            areas[number, indices] = inside.sum(axis=(1, 2))
            identities[indices[0] : indices[-1] + 1, rows, columns][inside] = number + 1
    return identities, areas


# ---- the file ------------------------------------------------------------------------------------------------------


def write_video(
    scene: Scene, path: str | os.PathLike, *, size: int = DEFAULT_SIZE, trail_sec: float = DEFAULT_TRAIL_SEC
) -> None:
    """Draw a scene into an mp4 file (h264, yuv420p), which is written atomically.

    Args:
        scene: The scene.
        path: File to write.
        size: Height and width in pixels, even.
        trail_sec: As for `render_frames`.
    """
    import av

    step = max(1, CHUNK_PIXELS // size**2)
    with writing(path) as partial, av.open(f"file:{partial}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=ENCODING)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # with several threads the file differs from run to run
        stream.codec_context.gop_size = 8 * FPS
        for first in range(0, scene.num_frames, step):
            last = min(first + step, scene.num_frames)
            for frame in render_frames(scene, first, last, size=size, trail_sec=trail_sec):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


__all__ = [
    "DEFAULT_SIZE",
    "DEFAULT_TRAIL_SEC",
    "EXPOSURE_SEC",
    "IDENTITY_SIZE",
    "is_lit",
    "render_frames",
    "render_identities",
    "write_video",
]
