"""Pixels of Moving Shapes: pictures and identity maps of a scene, and the video file.

What moves, grows or spins is drawn as a screen shows it to a camera. The camera gathers light for the whole time of a
picture, the seconds [n / FPS, (n + 1) / FPS) of picture number n, so the thing is blurred along its way: that says along
which line it moves, not in which direction. The screen glows on for `trail_sec`: behind the thing lies a fading trail of
the places where it was in the same action, which says the direction, and leaves a halo around what shrinks or spins.
That something grows shows in no single picture. With `trail_sec=0` direction, too, is seen only by comparing pictures.

All pictures of a segment are drawn at once, in the rectangle that the object sweeps.
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
BRIGHTEST_TRAIL = 0.6  # opacity where it begins
IDENTITY_SIZE = 64  # of the maps that decide what is visible, so that annotations are the same for every picture size
BLINK_FRAMES = 3  # lit, and as many dimmed: such a period of 1.5 s is in step with no sampling at 1 or 2 a second
DIMMED = 0.3
# With its "mbtree", x264 encodes the same pictures differently from time to time, even on one thread.
ENCODING = {"preset": "veryfast", "crf": "22", "mbtree": "0"}
NOISE_VALUES = 2**20
CHUNK_PIXELS = 2**17  # pictures are drawn in chunks that stay in the processor's cache


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


# How far a point is outside of a shape of radius 1 about the origin; below 0 inside.
OUTSIDE = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
    "blob": _blob,
}


def _coverage(shape: str, poses: np.ndarray, rows: slice, columns: slice, size: int) -> np.ndarray:
    """How much of each pixel of a rectangle a shape covers: `(..., height, width)` for `poses (..., 4)`."""
    x, y, radius, angle = (poses[..., axis, None, None].astype(np.float32) for axis in range(4))
    u = ((np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / size - x) / radius
    v = ((np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5) / size - y) / radius
    if angle.any():
        cos, sin = np.cos(angle), np.sin(angle)
        u, v = cos * u + sin * v, cos * v - sin * u
    return np.minimum(np.maximum(0.5 - OUTSIDE[shape](u, v) * (radius * size), 0), 1)


def _rectangle(poses: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns that hold all poses of a shape."""
    reach = 1.5 * float(poses[..., 2].max())  # more than any shape's
    slices = []
    for axis in (1, 0):
        places = poses[..., axis]
        low, high = math.floor((places.min() - reach) * size), math.ceil((places.max() + reach) * size)
        slices.append(slice(max(low, 0), max(min(high, size), 0)))
    return tuple(slices)


def _segments(item: SceneObject, start: int, stop: int) -> Iterator[tuple[Segment, np.ndarray]]:
    """Segments that have pictures among those from `start` to `stop`, with the numbers of these pictures."""
    for segment in item.segments:
        first, last = max(segment.start_sec * FPS, start), min(segment.end_sec * FPS, stop)
        if first < last:
            yield segment, np.arange(first, last)


def _segment_poses(segment: Segment, times_sec: np.ndarray) -> np.ndarray:
    """`(..., 4)` poses at times inside a segment."""
    share = (times_sec - segment.start_sec) / (segment.end_sec - segment.start_sec)
    first, last = np.array(segment.start), np.array(segment.end)
    return first + share[..., None] * (last - first)


# ---- pictures ------------------------------------------------------------------------------------------------------


def render_frames(
    scene: Scene,
    start: int,
    stop: int,
    *,
    size: int = DEFAULT_SIZE,
    trail_sec: float = DEFAULT_TRAIL_SEC,
    exposure_sec: float = EXPOSURE_SEC,
) -> np.ndarray:
    """Draw the pictures of a scene from number `start` to before `stop`.

    Args:
        scene: What to draw.
        start: Number of the first picture.
        stop: Number of the picture after the last.
        size: Height and width in pixels.
        trail_sec: How long the trail behind moving things lasts; 0 = none.
        exposure_sec: How long a picture gathers light, `1 / FPS` at most; 0 = nothing is blurred.

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
    """Draw an object over the pictures `canvas (num_frames, size, size, 3)`, of which `first` is the number."""
    for segment, numbers in _segments(item, first, first + len(canvas)):
        times = (numbers[:, None] + 0.5) / FPS
        if segment.start == segment.end:  # all pictures are the same
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
            cover = cover * np.where(is_lit(segment, numbers), 1, DIMMED).astype(np.float32)[:, None, None]
        region = canvas[numbers[0] - first : numbers[-1] + 1 - first, rows, columns]
        region += cover[..., None] * (np.array(item.rgb, dtype=np.float32) - region)


@lru_cache(maxsize=16)
def _instants(size: int, trail_sec: float, exposure_sec: float) -> tuple[np.ndarray, np.ndarray]:
    """Instants that are seen in a picture, in seconds from its middle.

    Returns:
        `(num_instants,)`, those of the exposure before those of the trail, and how opaque the latter are,
        `(num_trail_instants, 1, 1)`.
    """
    number = max(8, size // 8)
    exposure = exposure_sec * np.linspace(-0.5, 0.5, number) if exposure_sec else np.zeros(1)
    ages = np.arange(1, number + 1) / (number + 1) if trail_sec else np.zeros(0)
    opacities = BRIGHTEST_TRAIL * (1 - ages).astype(np.float32)
    return np.concatenate([exposure, -trail_sec * ages]), opacities[:, None, None]


def is_lit(segment: Segment, numbers: np.ndarray) -> np.ndarray:
    """Whether a blinking object is lit, not dimmed, in the pictures of these numbers."""
    return (numbers + segment.phase) // BLINK_FRAMES % 2 == 0


def _draw_background(scene: Scene, first: int, last: int, size: int) -> np.ndarray:
    """`(last - first, size, size, 3)` float32 drifting textures."""
    canvas = np.empty((last - first, size, size, 3), dtype=np.float32)
    starts = [shot.start_sec for shot in scene.shots]
    numbers = np.arange(first, last)
    shots = np.searchsorted(starts, numbers / FPS, side="right") - 1
    for index in np.unique(shots):
        shot = scene.shots[index]
        tile, tint = _texture(shot, size), np.array(shot.tint, dtype=np.float32)
        seconds = numbers[shots == index, None] / FPS - shot.start_sec
        corners = (np.floor(seconds * shot.drift * size) % size).astype(int).tolist()
        for frame, (x, y) in zip(np.flatnonzero(shots == index).tolist(), corners, strict=True):
            np.multiply(tile[y : y + size, x : x + size, None], tint, out=canvas[frame])
    return canvas


@lru_cache(maxsize=4)
def _texture(shot: Shot, size: int) -> np.ndarray:
    """`(2 size, 2 size)` brightness that repeats after `size`: a coarse and a fine random pattern."""
    random = np.random.default_rng(shot.seed)
    pattern = np.full((size, size), shot.level, dtype=np.float32)
    for cells, contrast in ((shot.cells, shot.contrast), (3 * shot.cells, 0.5 * shot.contrast)):
        weights = _interpolation(size, cells)
        pattern += contrast * (weights @ random.standard_normal((cells, cells), dtype=np.float32) @ weights.T)
    return np.tile(pattern, (2, 2))


@lru_cache(maxsize=64)
def _interpolation(size: int, cells: int) -> np.ndarray:
    """`(size, cells)` weights that stretch `cells` values evenly over `size` pixels, around the end again."""
    place = (np.arange(size) + 0.5) * cells / size - 0.5
    low = np.floor(place).astype(int)
    weights = np.zeros((size, cells), dtype=np.float32)
    weights[np.arange(size), low % cells] += 1 - (place - low)
    weights[np.arange(size), (low + 1) % cells] += place - low
    return weights


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Random numbers from which every picture takes a stretch: drawing new ones would take longer than the rest."""
    return np.random.default_rng(0).standard_normal(NOISE_VALUES, dtype=np.float32)


def _noise_offsets(scene: Scene, size: int) -> list[int]:
    """Where the stretch of each picture begins."""
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
    """Which object is seen at each pixel, in the middle of each picture's exposure.

    Args:
        scene: What to look at.
        size: Height and width in pixels.

    Returns:
        `(num_frames, size, size)` uint8, 0 where none is seen, else 1 + the object's number in `scene.objects`; and
        `(num_objects, num_frames)`, the pixels that each object has, seen or hidden.
    """
    identities = np.zeros((scene.num_frames, size, size), dtype=np.uint8)
    areas = np.zeros((len(scene.objects), scene.num_frames))
    for number, item in enumerate(scene.objects):
        for segment, numbers in _segments(item, 0, scene.num_frames):
            poses = _segment_poses(segment, (numbers + 0.5) / FPS)
            rows, columns = _rectangle(poses, size)
            inside = _coverage(item.shape, poses, rows, columns, size) >= 0.5
            areas[number, numbers] = inside.sum(axis=(1, 2))
            identities[numbers[0] : numbers[-1] + 1, rows, columns][inside] = number + 1
    return identities, areas


# ---- the file ------------------------------------------------------------------------------------------------------


def write_video(
    scene: Scene, path: str | os.PathLike, *, size: int = DEFAULT_SIZE, trail_sec: float = DEFAULT_TRAIL_SEC
) -> None:
    """Draw a scene into an mp4 file (h264, yuv420p), which appears when it is whole.

    Args:
        scene: What to draw.
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
        stream.codec_context.thread_count = 1  # several encode differently from run to run
        stream.codec_context.gop_size = 8 * FPS
        for first in range(0, scene.num_frames, step):
            last = min(first + step, scene.num_frames)
            for picture in render_frames(scene, first, last, size=size, trail_sec=trail_sec):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
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
