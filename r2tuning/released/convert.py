"""From the authors' released checkpoints (yeliudev/R2-Tuning) to ours.

The only file that knows the released code's names. The settings that a checkpoint file does not hold, those of training
and post-processing, come from `dataset_scripts.benchmarks`.
"""

import math
import os
import re
from typing import Any, cast

import torch
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers.utils import logging

from dataset_scripts.benchmarks import BenchmarkSpec, released_benchmarks
from modeling_r2tuning.configuration_r2tuning import R2TuningConfig
from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding


logger = logging.get_logger(__name__)

HEAD_SIZE = 64  # of every CLIP ViT

# Released name -> ours; the first rule that matches the whole name applies. `_rename` fills in the parts in braces.
RULES = [
    (r"adapter\.(scale|gate)", r"r2_block.\1"),
    (r"adapter\.video_map\.(\d)\.(.+)", r"r2_block.steps.0.video_projection.{\1}.\2"),
    (r"adapter\.query_map\.(\d)\.(.+)", r"r2_block.steps.0.text_projection.{\1}.\2"),
    (r"adapter\.v_map\.(.+)", r"r2_block.steps.0.video_key.\1"),
    (r"adapter\.q_map\.(.+)", r"r2_block.steps.0.text_query.\1"),
    (r"adapter\.tem\.(cross|self)_att\.([qkv])\.(.+)", r"r2_block.steps.0.temporal_layers.0.\1_attention.\2_proj.\3"),
    (r"adapter\.tem\.(cross|self)_att\.m\.(.+)", r"r2_block.steps.0.temporal_layers.0.\1_attention.out_proj.\2"),
    (r"adapter\.tem\.(cross|self)_att_norm\.(.+)", r"r2_block.steps.0.temporal_layers.0.\1_attention_norm.\2"),
    (r"adapter\.tem\.ffn\.mapping\.0\.(.+)", r"r2_block.steps.0.temporal_layers.0.feed_forward.fc1.\1"),
    (r"adapter\.tem\.ffn\.mapping\.2\.(.+)", r"r2_block.steps.0.temporal_layers.0.feed_forward.fc2.\1"),
    (r"adapter\.tem\.ffn_norm\.(.+)", r"r2_block.steps.0.temporal_layers.0.feed_forward_norm.\1"),
    (r"pyramid\.blocks\.(\d+)\.(\d+)\.(.+)", r"grounding_head.pyramid.levels.\1.{conv\2}.\3"),
    (r"pooling\.att\.weight", "grounding_head.text_pooling.score.weight"),
    (r"class_head\.module\.1\.(.+)", r"grounding_head.classification_head.conv1.\1"),
    (r"class_head\.module\.3\.(.+)", r"grounding_head.classification_head.conv2.\1"),
    (r"coord_head\.module\.1\.(.+)", r"grounding_head.boundary_head.conv1.\1"),
    (r"coord_head\.module\.3\.(.+)", r"grounding_head.boundary_head.conv2.\1"),
    (r"coef", "grounding_head.level_scale"),
]
# openai/CLIP's name -> that of transformers; the first rule that matches the whole name applies.
CLIP_RULES = [
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre\.(.+)", r"vision_model.pre_layrnorm.\1"),
    (r"visual\.ln_post\.(.+)", r"vision_model.post_layernorm.\1"),
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final\.(.+)", r"text_model.final_layer_norm.\1"),
    (r"visual\.transformer\.resblocks\.(.+)", r"vision_model.encoder.layers.\1"),
    (r"transformer\.resblocks\.(.+)", r"text_model.encoder.layers.\1"),
]
# Replaced inside the names of a residual block.
BLOCK_RULES = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.", "self_attn."),
]
UNUSED_CLIP = {"visual.proj", "text_projection", "logit_scale"}  # the encoders are used without their projections
# Positions in the released code's `nn.Sequential`s; those in between hold no weights (activation, dropout).
PROJECTION_PARTS = {"0": "input_norm", "2": "input_linear", "4": "hidden_norm", "6": "output_linear"}
PYRAMID_PARTS = {1: "conv", 3: "norm"}
PYRAMID_PERIOD = 5  # one repetition of a level: permute, conv, permute, norm, activation
TRAINED = ("r2_block.", "grounding_head.")  # our weights besides the encoders'


def convert_original_checkpoint(
    state_dict_or_path: dict[str, torch.Tensor] | str | os.PathLike,
    *,
    benchmark: str,
    domain: str | None = None,
    backbone_config: CLIPConfig | None = None,
    **config_overrides: Any,
) -> R2TuningForVideoGrounding:
    """Convert a checkpoint of the authors' released code to our model.

    Sizes (number of recurrent steps, widths, strides) follow from the shapes of the weights. If the checkpoint holds
    CLIP (keys that begin with `clip.`), its weights are converted too. If it does not, the encoders are random until the
    model is saved and loaded again, which fetches CLIP.

    Args:
        state_dict_or_path: Weights by their released names, or a `.pth` file with them. A file is read with
            `weights_only=True`, so code in it is not run.
        benchmark: One of `released_benchmarks()`.
        domain: For YouTube Highlights and TVSum; only checked, as the models of all domains share their settings.
        backbone_config: Configuration of CLIP; default: that of the CLIP in the checkpoint, else that of ViT-B/32.
        config_overrides: Fields of `R2TuningConfig` that differ from the released configuration, such as
            `num_attention_heads`, which does not follow from the weights.

    Returns:
        The model in evaluation mode.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The benchmark or domain is unknown; the file is not a checkpoint of R2-Tuning; or weights are unknown,
            missing or of the wrong shape (the message lists them).
    """
    settings = get_benchmark(benchmark, domain)
    clip_weights, weights = {}, {}
    for name, value in _read(state_dict_or_path).items():
        if name.startswith("clip."):
            clip_weights[name.removeprefix("clip.")] = value
        elif not name.startswith("loss."):  # a temperature that the released code never trains; ours is a constant
            weights[name] = value
    if backbone_config is None:
        backbone_config = _clip_config(clip_weights) if clip_weights else CLIPConfig()
    config = _config(weights, settings, backbone_config, save_backbone=bool(clip_weights), **config_overrides)
    model = R2TuningForVideoGrounding(config)

    converted, unknown = _rename(weights)
    converted |= _convert_clip(clip_weights)
    expected = model.state_dict()
    if not clip_weights:
        expected = {name: value for name, value in expected.items() if name.startswith(TRAINED)}
    _check_fit(converted, unknown, expected)
    model.load_state_dict(converted, strict=False)
    return model.eval()


def get_benchmark(name: str, domain: str | None = None) -> BenchmarkSpec:
    """Settings of a benchmark with released checkpoints; checks the domain if one is given."""
    benchmarks = released_benchmarks()
    if name not in benchmarks:
        raise ValueError(f"`benchmark` must be one of {sorted(benchmarks)}, got {name!r}.")
    domains = benchmarks[name].released_checkpoints
    if domain is not None and domain not in domains:
        if None in domains:
            raise ValueError(f"`domain` of {name} must be left out, as it has none, got {domain!r}.")
        raise ValueError(f"`domain` of {name} must be one of {sorted(domains)}, got {domain!r}.")
    return benchmarks[name]


def original_filename(benchmark: str, domain: str | None = None) -> str:
    """Path of a published checkpoint in `ORIGINAL_REPOSITORY`."""
    files = get_benchmark(benchmark, domain).released_checkpoints
    if domain not in files:
        raise ValueError(f"{benchmark} has one model for each domain: give one of {sorted(files)}.")
    return f"checkpoints/r2_tuning_{files[domain]}.pth"


def _read(source: dict[str, torch.Tensor] | str | os.PathLike) -> dict[str, torch.Tensor]:
    """Return the weights in float32, by name and without the prefix of distributed training."""
    content = source if isinstance(source, dict) else _load_file(source)
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError("The checkpoint holds no dictionary of weights, neither by itself nor under 'state_dict'.")
    return {name.removeprefix("module."): value.float() for name, value in weights.items()}


def _load_file(path: str | os.PathLike) -> Any:
    """Load a `.pth` file without running code that it may contain."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No checkpoint at '{os.fspath(path)}'.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (torch.load raises many types; all mean an unusable file)
        raise ValueError(
            f"'{os.fspath(path)}' is not a PyTorch checkpoint that is safe to load: it must hold plain weights only."
        ) from error


def _config(
    weights: dict[str, torch.Tensor],
    settings: BenchmarkSpec,
    backbone_config: CLIPConfig,
    save_backbone: bool,
    **overrides: Any,
) -> R2TuningConfig:
    """Make the configuration from the shapes of the weights, the benchmark's settings and the overrides."""
    try:
        num_steps = len(weights["adapter.scale"])
        num_levels = len(weights["coef"])
        hidden_size = len(weights["adapter.v_map.weight"])
        video_width = len(weights["adapter.video_map.0.weight"])
        text_width = len(weights["adapter.query_map.0.weight"])
    except KeyError as error:
        raise ValueError(f"This is not a checkpoint of R2-Tuning: it lacks {error}.") from error
    # `CLIPConfig` accepts dictionaries but always holds configurations.
    vision = cast(CLIPVisionConfig, backbone_config.vision_config)
    text = cast(CLIPTextConfig, backbone_config.text_config)
    # On benchmarks with moments, the start and end time of a frame are two more channels.
    use_temporal_endpoints = video_width == vision.hidden_size + 2
    video_fits = use_temporal_endpoints or video_width == vision.hidden_size
    if not video_fits or text_width != text.hidden_size:
        raise ValueError(
            f"The checkpoint was trained on another CLIP: its projections read {video_width} video channels (two of "
            f"them may be frame times) and {text_width} text channels, `backbone_config` has {vision.hidden_size} and "
            f"{text.hidden_size}. Name that CLIP."
        )
    fields: dict[str, Any] = {
        "num_recurrent_steps": num_steps,
        "hidden_size": hidden_size,
        "strides": [2**level for level in range(num_levels)],
        "use_temporal_endpoints": use_temporal_endpoints,
        "use_moment_head": settings.positive_saliency is None,
        "positive_saliency": settings.positive_saliency or "above_median",
        "fps": settings.fps,
        "dropout": settings.dropout,
        "window_sec": settings.window_sec,
        "saliency_loss_weight": settings.saliency_loss_weight,
    }
    fields |= overrides
    return R2TuningConfig(vision_config=vision, text_config=text, save_backbone=save_backbone, **fields)


def _translate(name: str, rules: list[tuple[str, str]]) -> str | None:
    """Apply the first rule that matches the whole name; `None` if there is none."""
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return None


def _rename(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the weights under our names, and the names that no rule matches."""
    converted, unknown = {}, []
    for name, value in weights.items():
        target = _translate(name, RULES)
        if target is None:
            unknown.append(name)
            continue
        target = re.sub(r"\{conv(\d+)\}", _pyramid_part, target)
        target = re.sub(r"\{(\d)\}", _projection_part, target)
        converted[target] = value
    return converted, unknown


def _pyramid_part(match: re.Match) -> str:
    repetition, part = divmod(int(match[1]), PYRAMID_PERIOD)
    return f"{repetition}.{PYRAMID_PARTS.get(part, part)}"


def _projection_part(match: re.Match) -> str:
    return PROJECTION_PARTS.get(match[1], match[0])


def _convert_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of openai/CLIP under the names of transformers; unknown ones keep theirs."""
    converted = {}
    for name, value in weights.items():
        if name in UNUSED_CLIP:
            continue
        target = _translate(name, CLIP_RULES) or f"clip.{name}"
        for old, new in BLOCK_RULES:
            target = target.replace(f".{old}", f".{new}")
        if ".in_proj_" in target:
            # openai/CLIP stacks the projections of query, key and value in one matrix.
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                converted[target.replace("in_proj_", f"{part}_proj.")] = piece
        else:
            converted[target] = value
    return converted


def _clip_config(weights: dict[str, torch.Tensor]) -> CLIPConfig:
    """Make CLIP's configuration from the shapes of openai/CLIP's weights."""
    try:
        vision_width, _, patch_size, _ = weights["visual.conv1.weight"].shape
        vocab_size, text_width = weights["token_embedding.weight"].shape
        grid = math.isqrt(len(weights["visual.positional_embedding"]) - 1)  # patches per side; the 1 is the CLS token
        projection_dim = weights["visual.proj"].shape[1]
        text_length = len(weights["positional_embedding"])
    except KeyError as error:
        raise ValueError(f"The CLIP in the checkpoint is incomplete: it lacks 'clip.{error.args[0]}'.") from error
    vision = CLIPVisionConfig(
        hidden_size=vision_width,
        intermediate_size=4 * vision_width,
        num_hidden_layers=_count_blocks(weights, "visual.transformer."),
        num_attention_heads=max(1, vision_width // HEAD_SIZE),
        patch_size=patch_size,
        image_size=grid * patch_size,
        projection_dim=projection_dim,
    )
    text = CLIPTextConfig(
        hidden_size=text_width,
        intermediate_size=4 * text_width,
        num_hidden_layers=_count_blocks(weights, "transformer."),
        num_attention_heads=max(1, text_width // HEAD_SIZE),
        vocab_size=vocab_size,
        max_position_embeddings=text_length,
        projection_dim=projection_dim,
        bos_token_id=vocab_size - 2,  # the last two words of openai/CLIP's vocabulary
        eos_token_id=vocab_size - 1,
    )
    return CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=projection_dim)


def _count_blocks(weights: dict[str, torch.Tensor], prefix: str) -> int:
    """Count the residual blocks of a tower: the different numbers in "transformer.resblocks.NUMBER.(...)"."""
    numbers = set()
    for name in weights:
        if name.startswith(prefix):
            numbers.add(name.split("resblocks.")[1].split(".")[0])
    return len(numbers)


def _check_fit(converted: dict[str, torch.Tensor], unknown: list[str], expected: dict[str, torch.Tensor]) -> None:
    """Refuse weights that are not exactly those of the model, and list all that differ."""
    misshaped = []
    for name, value in expected.items():
        if name in converted and converted[name].shape != value.shape:
            misshaped.append(f"{name}: {tuple(converted[name].shape)} where {tuple(value.shape)} is needed")
    found = {
        "unknown": sorted([*unknown, *(converted.keys() - expected.keys())]),
        "missing": sorted(expected.keys() - converted.keys()),
        "misshaped": misshaped,
    }
    problems = [f"{label} {names}" for label, names in found.items() if names]
    if problems:
        raise ValueError(f"The checkpoint does not fit: {'; '.join(problems)}.")


__all__ = [
    "convert_original_checkpoint",
    "get_benchmark",
    "original_filename",
]
