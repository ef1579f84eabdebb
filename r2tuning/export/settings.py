"""What a runner needs besides the graphs: the settings of processor and model, checked against the processor."""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding
from modeling_r2tuning.processing_r2tuning import R2TuningProcessor, frame_interpolation, frame_size
from r2tuning.export.graphs import frame_multiple
from r2tuning.export.runner import FORMAT, TOKENIZER, normalise


# Words, numbers, punctuation and scripts on which tokenizers differ.
SAMPLE_TEXTS = (
    "a man in a red shirt opens the door",
    "It's 3 o'clock -- isn't it?!  (two   spaces)",
    "Ein Mädchen öffnet die Tür; naïve café",
    "一个人打开门",
    "человек открывает дверь",
    "😀 <|endoftext|>",
)
TOLERANCE = 1e-5  # of normalised pixels


def make_settings(
    model: R2TuningForVideoGrounding, processor: R2TuningProcessor, predictions: tuple[str, ...]
) -> dict[str, Any]:
    """Settings of a runner, as JSON can hold them.

    Args:
        model: The model.
        processor: Its processor.
        predictions: Outputs of the graph "heads", in order.

    Raises:
        ValueError: The processor prepares frames in a way that the runner does not know.
    """
    tokenizer = processor.tokenizer
    settings = {
        "format": FORMAT,
        "backbone": model.config.tower_spec.title,
        **_frame_settings(processor),
        "fps": float(processor.fps),
        "window_sec": model.config.window_sec,
        "strides": list(model.config.strides),
        "frame_multiple": frame_multiple(model),
        "predictions": list(predictions),
        "max_text_length": processor.max_text_length,
        "longest_text": processor.longest_text,
        "pad_to_max_text_length": processor.pad_to_max_text_length,
        "lowercase_text": processor.lowercase_text,
        "pad_id": tokenizer.pad_token_id or 0,
        "special_ids": list(tokenizer.all_special_ids),
        "nms": processor.nms,
        "nms_threshold": processor.nms_threshold,
        "round_to": processor.round_to,
        "existence_scale": processor.existence_scale,
        "existence_bias": processor.existence_bias,
    }
    _check_frames(processor, settings)
    return settings


def _frame_settings(processor: R2TuningProcessor) -> dict[str, Any]:
    """How frames are scaled, cropped and normalised."""
    images = processor.image_processor
    size = frame_size(images)
    crop = None
    if getattr(images, "do_center_crop", False):
        crop = [images.crop_size["height"], images.crop_size["width"]]
    scales, normalises = bool(images.do_rescale), bool(images.do_normalize)
    return {
        "frame_size": size if isinstance(size, int) else list(size),
        "interpolation": frame_interpolation(images),
        "crop": crop,
        "rescale_factor": float(images.rescale_factor) if scales else 1.0,
        "mean": list(map(float, images.image_mean)) if normalises else [0.0, 0.0, 0.0],
        "std": list(map(float, images.image_std)) if normalises else [1.0, 1.0, 1.0],
    }


def _check_frames(processor: R2TuningProcessor, settings: dict[str, Any]) -> None:
    """Compare the runner's normalisation with the image processor's on random frames of several shapes."""
    size = settings["frame_size"]
    shapes = [tuple(size)] if isinstance(size, list) else [(size, size), (size, size * 16 // 9), (size * 4 // 3, size)]
    generator = np.random.default_rng(0)
    for height, width in shapes:
        frames = generator.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        expected, ours = processor._pixels(frames).numpy(), normalise(frames, settings)
        if expected.shape != ours.shape or np.abs(expected - ours).max() > TOLERANCE:
            raise ValueError(
                f"Frames cannot be exported: the checkpoint's {type(processor.image_processor).__name__} does more than "
                "scale them while decoding, crop the centre and normalise."
            )


def write_tokenizer(processor: R2TuningProcessor, folder: Path) -> None:
    """Write `tokenizer.json`, and check that it gives the ids that the processor gives.

    Raises:
        ValueError: The tokenizer cannot be written so.
    """
    kind = type(processor.tokenizer).__name__
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"The tokenizer cannot be exported: {kind} is not one of the library `tokenizers`, which the runner uses. "
            "Backbones whose repositories hold a tokenizer.json have such a tokenizer."
        )
    path = folder / TOKENIZER
    backend.save(str(path))
    reread = Tokenizer.from_file(str(path))
    for text, expected in zip(SAMPLE_TEXTS, processor.tokenizer(list(SAMPLE_TEXTS))["input_ids"], strict=True):
        if reread.encode(text).ids != expected:
            raise ValueError(
                f"The tokenizer cannot be exported: {kind} gives other ids than its tokenizer.json, for example for {text!r}."
            )


__all__ = ["make_settings", "write_tokenizer"]
