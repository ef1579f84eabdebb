"""Frames of image processors that resize to a height and a width: decoded at that size, they are those of full frames."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import transformers
from tiny_towers import make_tokenizer
from video_samples import corner_colors, corner_picture, write_video

from modeling_r2tuning import R2TuningProcessor, load_video_frames
from modeling_r2tuning.processing_r2tuning import frame_interpolation, frame_size, make_image_processor
from r2tuning.features.frames import FrameStore, frame_settings
from r2tuning.features.jobs import VideoJob
from r2tuning.features.settings import prepare_folder


SIZE = {"height": 64, "width": 64}
BILINEAR, BICUBIC = 2, 3
PROCESSORS = {
    "siglip": lambda: transformers.SiglipImageProcessor(size=SIZE),
    "siglip 2": lambda: transformers.SiglipImageProcessor(size=SIZE, resample=BILINEAR),
    "chinese_clip": lambda: transformers.ChineseCLIPImageProcessor(size=SIZE, do_center_crop=False),
    "not square": lambda: transformers.SiglipImageProcessor(size={"height": 32, "width": 96}),
    "clip": lambda: make_image_processor(64),
}


def smooth_picture(width, height, seed=0):
    """Random colours that change slowly."""
    from PIL import Image

    colours = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))


def pixels_of(image_processor, frames):
    """Frames after resizing and cropping, `(num_frames, height, width, 3)`, 0 to 255."""
    options = {"do_rescale": False, "do_normalize": False, "input_data_format": "channels_last"}
    pixels = image_processor(list(frames), return_tensors="np", **options)["pixel_values"]
    return pixels.transpose(0, 2, 3, 1).astype(float)


def decoded(image_processor, path):
    """Frames that were scaled while they were decoded."""
    size, interpolation = frame_size(image_processor), frame_interpolation(image_processor)
    return load_video_frames(path, 1, size=size, interpolation=interpolation).frames


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
@pytest.mark.parametrize("shape", [(320, 180), (176, 320)], ids=["wide", "high"])
def test_frames_decoded_at_their_size_are_those_of_full_frames(tmp_path, name, rotation, shape):
    path = write_video(
        tmp_path / "video.mp4",
        [smooth_picture(*shape, seed) for seed in range(2)],
        configure=lambda stream: stream.set_display_rotation(rotation),
    )
    image_processor = PROCESSORS[name]()
    full = load_video_frames(path, 1).frames
    got, want = pixels_of(image_processor, decoded(image_processor, path)), pixels_of(image_processor, full)
    assert got.shape == want.shape
    difference = np.abs(got - want)
    # swscale rounds otherwise, and interpolates colours that the full frame repeats.
    limit = 5.0 if name == "clip" else 2.0
    assert difference.mean() < limit, (difference.mean(), difference.max())
    assert want.std() > 30


@pytest.mark.parametrize("name", ["siglip", "siglip 2", "chinese_clip", "not square"])
def test_frames_decoded_at_their_size_are_not_scaled_again(tmp_path, name):
    path = write_video(tmp_path / "video.mp4", [smooth_picture(320, 180)])
    image_processor = PROCESSORS[name]()
    frames = decoded(image_processor, path)
    np.testing.assert_array_equal(pixels_of(image_processor, frames), frames)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_squeezed_frames_are_upright(tmp_path, rotation):
    path = write_video(
        tmp_path / "video.mp4",
        [corner_picture()],
        configure=lambda stream: stream.set_display_rotation(rotation),
    )
    frames = load_video_frames(path, 1, size=(24, 40)).frames
    assert frames.shape[1:] == (24, 40, 3)
    assert corner_colors(frames[0]) == {0: "rgbw", 90: "gwrb", 180: "wbgr", -90: "brwg"}[rotation]


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_that_are_not_square_are_taken_into_account(tmp_path, name):
    """A squeezed frame has the same content whatever the shape of its pixels; a crop sees less of a wider one."""

    def configure(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(16, 11)

    path = write_video(tmp_path / "wide.mp4", [smooth_picture(176, 144)] * 2, configure=configure)
    image_processor = PROCESSORS[name]()
    full = load_video_frames(path, 1).frames
    assert full.shape[1:] == (144, 256, 3)
    difference = np.abs(pixels_of(image_processor, decoded(image_processor, path)) - pixels_of(image_processor, full))
    assert difference.mean() < 5.0


def test_colours_keep_their_sharpness_where_the_width_shrinks_most(tmp_path):
    """Decoded as CLIP's frames are, this picture differs by 10 on average."""
    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 255, (18, 32, 3)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(colours).resize((640, 360), Image.Resampling.BICUBIC))
    path = write_video(tmp_path / "video.mp4", [picture])
    image_processor = PROCESSORS["siglip"]()
    got = pixels_of(image_processor, decoded(image_processor, path))
    want = pixels_of(image_processor, load_video_frames(path, 1).frames)
    assert np.abs(got - want).mean() < 4.0


def test_bilinear_processors_get_bilinear_frames(tmp_path):
    path = write_video(tmp_path / "video.mp4", [smooth_picture(320, 180)])
    smooth, sharp = PROCESSORS["siglip 2"](), PROCESSORS["siglip"]()
    assert (frame_interpolation(smooth), frame_interpolation(sharp)) == ("bilinear", "bicubic")
    assert not np.array_equal(decoded(smooth, path), decoded(sharp, path))
    with pytest.raises(ValueError, match=r"`interpolation` must be one of .*got 'nearest'"):
        load_video_frames(path, 1, interpolation="nearest")


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_a_height_or_width_below_one_is_refused(tmp_path, size):
    path = write_video(tmp_path / "video.mp4", [smooth_picture(64, 48)])
    with pytest.raises(ValueError, match="`size` must be finite and at least 1"):
        load_video_frames(path, 1, size=size)


@pytest.mark.parametrize("name", PROCESSORS)
def test_stored_frames_are_those_of_the_video(tmp_path, name):
    path = write_video(
        tmp_path / "video.mp4",
        [smooth_picture(320, 180, seed) for seed in range(6)],
        rate=2,
        configure=lambda stream: stream.set_display_rotation(90),
    )
    processor = R2TuningProcessor(PROCESSORS[name](), make_tokenizer("clip"), fps=1.0)
    settings = frame_settings(processor, "qvhighlights", 1.0)
    prepare_folder(tmp_path / "store", settings)
    store = FrameStore(tmp_path / "store", processor, settings)
    job = VideoJob("video", str(path), 1.0, 3, False)
    assert sum(store.write(job, store.read(job))) == 3
    stored, original = processor.stream_video(tmp_path / "store/videos/video.mp4"), processor.stream_video(path)
    assert torch.equal(torch.cat(list(stored)), torch.cat(list(original)))
