"""Convert decoded pictures to upright RGB arrays with square pixels."""

from fractions import Fraction
from typing import Any

import numpy as np

from .containers_r2tuning import VideoSource, import_av


__all__ = ["INTERPOLATIONS", "Renderer"]

INTERPOLATIONS = ("bicubic", "bilinear")

# Display matrices (a, b, c, d) of rotations by 0, 90, 180 and 270 degrees, anticlockwise; see `display_matrix`.
QUARTER_TURNS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


class Renderer:
    """Converts the pictures of one video; all get the size and the orientation of the first one.

    Args:
        source: The video.
        sample_aspect_ratio: Width of a pixel divided by its height.
        size: Short side of the result in pixels, or its height and width; `None` = as in the video.
        interpolation: How pictures are scaled, one of `INTERPOLATIONS`.
    """

    def __init__(
        self,
        source: VideoSource,
        sample_aspect_ratio: Fraction,
        size: int | tuple[int, int] | None,
        interpolation: str = "bicubic",
    ):
        self.source = source
        self.sample_aspect_ratio = sample_aspect_ratio
        self.size = size
        self.interpolation = interpolation.upper()
        # swscale gives "rgb24" colours of half the width, which blur further where the width shrinks more than the
        # height; "gbrp" has colours of the full width. CLIP's frames, scaled by their short side, keep "rgb24", which
        # released checkpoints were evaluated with.
        self.format = "gbrp" if isinstance(size, tuple) else "rgb24"
        self.av = import_av()
        self.reformatter = self.av.video.reformatter.VideoReformatter()
        self._layout: tuple[np.ndarray, int, int] | None = (
            None  # display matrix, width and height before it is applied
        )

    def __call__(self, frame: Any) -> np.ndarray:
        """Convert a frame of PyAV.

        Returns:
            `(height, width, 3)`, uint8 RGB.

        Raises:
            ValueError: The result would be too large, or the pixel format cannot be converted.
        """
        if self._layout is None:
            matrix = display_matrix(frame)
            self._layout = (matrix, *self._scaled_size(frame.width, frame.height, is_turned(matrix)))
        matrix, width, height = self._layout
        # One call of swscale both scales and converts, so that a large picture never exists as RGB.
        try:
            scaled = self.reformatter.reformat(
                frame, width, height, self.format, interpolation=self.interpolation, threads=1
            )
        except self.av.error.FFmpegError as error:
            raise ValueError(f"Pictures in the format {frame.format.name} cannot be converted to RGB.") from error
        return turn_upright(scaled.to_ndarray(), matrix)

    def _scaled_size(self, width: int, height: int, turned: bool) -> tuple[int, int]:
        """Width and height with square pixels, before the picture is turned upright.

        As in CLIP's image processor, the long side is truncated, not rounded.
        """
        width = max(round(width * self.sample_aspect_ratio), 1)
        if isinstance(self.size, tuple):
            height, width = self.size[::-1] if turned else self.size
        elif self.size is not None:
            short = min(width, height)
            width, height = self.size * width // short, self.size * height // short
        if width * height > self.source.max_pixels:
            raise ValueError(
                f"{self.source.name} gives pictures of {width} x {height} pixels, more than `max_pixels` = "
                f"{self.source.max_pixels:,}; pass a larger `max_pixels` or a smaller `size`."
            )
        return width, height


def display_matrix(frame: Any) -> np.ndarray:
    """Return the numbers (a, b, c, d) that display the stored pixel (x, y) at (ax + cy, bx + dy)."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 fails to list side data if one is of a kind that it does not know
        return np.array(QUARTER_TURNS[round(frame.rotation / 90) % 4])
    if data is None:
        return np.array(QUARTER_TURNS[0])
    # The file stores a 3 x 3 matrix in row order; its upper left 2 x 2 numbers rotate and mirror.
    return np.frombuffer(data, dtype=np.int32)[[0, 1, 3, 4]]


def is_turned(matrix: np.ndarray) -> bool:
    """Whether a display matrix exchanges width and height."""
    x_from_x, y_from_x, _, _ = matrix.tolist()
    return abs(x_from_x) < abs(y_from_x)


def turn_upright(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a rotation by a multiple of 90 degrees, mirrored or not, to a picture `(height, width, 3)`."""
    x_from_x, y_from_x, x_from_y, y_from_y = matrix.tolist()
    if is_turned(matrix):
        picture = picture.transpose(1, 0, 2)
        x_from_x, y_from_y = x_from_y, y_from_x
    if y_from_y < 0:
        picture = picture[::-1]
    if x_from_x < 0:
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
