"""From the authors' released checkpoints (yeliudev/R2-Tuning) to ours.

The only file that knows the released code's names. The settings that a checkpoint file does not hold, those of training
and post-processing, come from `dataset_scripts.benchmarks`.
"""

import math
import os
import re

import torch
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from transformers.utils import logging

from dataset_scripts.benchmarks import BenchmarkSpec, released_benchmarks
from modeling_r2tuning.configuration_r2tuning import R2TuningConfig
from modeling_r2tuning.modeling_r2tuning import R2TuningForVideoGrounding


logger = logging.get_logger(__name__)

HEAD_SIZE = 64  # of every CLIP ViT

# Released name -> ours; the first rule that fits counts.
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
BLOCK_RULES = [("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("attn.", "self_attn.")]  # fmt: skip
UNUSED_CLIP = {"visual.proj", "text_projection", "logit_scale"}  # the towers are used without their projections
PROJECTION_PARTS = {"0": "input_norm", "2": "input_linear", "4": "hidden_norm", "6": "output_linear"}


def convert_original_checkpoint(
    state_dict_or_path: dict[str, torch.Tensor] | str | os.PathLike,
    *,
    benchmark: str,
    domain: str | None = None,
    backbone_config: CLIPConfig | None = None,
    **config_overrides,
) -> R2TuningForVideoGrounding:
    """Build our model from a checkpoint of the released code.

    Sizes (K, width, strides) are read off the weights. CLIP's weights are taken from the checkpoint where it has
    `clip.*` keys; otherwise the encoders are random until the model is saved and loaded with a CLIP.

    Args:
        state_dict_or_path: The weights by released name, or a `.pth` file, which is read with `weights_only=True`.
        benchmark: One of `released_benchmarks()`.
        domain: For YouTube Highlights and TVSum; only checked, as their models share all settings.
        backbone_config: CLIP's configuration; default: as the weights say, else ViT-B/32.
        config_overrides: Fields of `R2TuningConfig` that differ from the released configuration, such as
            `num_attention_heads`, which no weight tells.

    Returns:
        The model in eval mode.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Unknown benchmark or domain; not a checkpoint; unknown, missing or misshaped weights (listed).
    """
    settings = get_benchmark(benchmark, domain)
    weights = _read(state_dict_or_path)
    clip_weights = {k.removeprefix("clip."): v for k, v in weights.items() if k.startswith("clip.")}
    weights = {k: v for k, v in weights.items() if not k.startswith(("clip.", "loss."))}
    if backbone_config is None:
        backbone_config = _clip_config(clip_weights) if clip_weights else CLIPConfig()
    config = _config(weights, settings, backbone_config, save_backbone=bool(clip_weights), **config_overrides)
    model = R2TuningForVideoGrounding(config)

    converted, unknown = _rename(weights)
    for name, value in _convert_clip(clip_weights).items():
        converted[name] = value
    expected = {
        k: v for k, v in model.state_dict().items() if clip_weights or k.startswith(("r2_block.", "grounding_head."))
    }
    _check(converted, unknown, expected)
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
    if not isinstance(source, dict):
        if not os.path.isfile(source):
            raise FileNotFoundError(f"No checkpoint at '{os.fspath(source)}'.")
        try:
            source = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 (torch.load raises many types; all mean an unusable file)
            raise ValueError(
                f"'{os.fspath(source)}' is not a PyTorch checkpoint that is safe to load: it must hold plain weights only."
            ) from error
    weights = source.get("state_dict", source) if isinstance(source, dict) else source
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError("The checkpoint holds no dictionary of weights, neither by itself nor under 'state_dict'.")
    return {name.removeprefix("module."): value.float() for name, value in weights.items()}


def _config(
    weights: dict[str, torch.Tensor],
    settings: BenchmarkSpec,
    backbone_config: CLIPConfig,
    save_backbone: bool,
    **overrides,
) -> R2TuningConfig:
    try:
        num_steps, num_levels = len(weights["adapter.scale"]), len(weights["coef"])
        hidden_size = len(weights["adapter.v_map.weight"])
        width = len(weights["adapter.video_map.0.weight"])
        text_width = len(weights["adapter.query_map.0.weight"])
    except KeyError as error:
        raise ValueError(f"This is no checkpoint of R2-Tuning: it lacks {error}.") from error
    vision, text = backbone_config.vision_config, backbone_config.text_config
    if width not in (vision.hidden_size, vision.hidden_size + 2) or text_width != text.hidden_size:
        raise ValueError(
            f"The checkpoint was trained on another CLIP: its projections read {width} video channels (two of them "
            f"may be frame times) and {text_width} text channels, `backbone_config` has {vision.hidden_size} and "
            f"{text.hidden_size}. Name that CLIP."
        )
    fields = {
        "num_recurrent_steps": num_steps,
        "hidden_size": hidden_size,
        "strides": [2**level for level in range(num_levels)],
        "use_temporal_endpoints": width == vision.hidden_size + 2,
        "use_moment_head": settings.positive_saliency is None,
        "positive_saliency": settings.positive_saliency or "above_median",
        "fps": settings.fps,
        "dropout": settings.dropout,
        "window_sec": settings.window_sec,
        "saliency_loss_weight": settings.saliency_loss_weight,
    }
    return R2TuningConfig(
        vision_config=vision, text_config=text, save_backbone=save_backbone, **{**fields, **overrides}
    )


def _rename(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Weights under our names, and the names that no rule knows."""
    converted, unknown = {}, []
    for name, value in weights.items():
        target = next((re.sub(rule, new, name) for rule, new in RULES if re.fullmatch(rule, name)), None)
        if target is None:
            unknown.append(name)
            continue
        target = re.sub(r"\{conv(\d+)\}", _pyramid_part, target)
        converted[re.sub(r"\{(\d)\}", lambda match: PROJECTION_PARTS.get(match[1], match[0]), target)] = value
    return converted, unknown


def _pyramid_part(match: re.Match) -> str:
    """A level repeats permute, conv (1), permute, norm (3), activation."""
    repetition, part = divmod(int(match[1]), 5)
    return f"{repetition}.{ {1: 'conv', 3: 'norm'}.get(part, part) }"


def _convert_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """openai/CLIP's names -> those of transformers; the joint attention projection is split in three."""
    converted = {}
    for name, value in weights.items():
        if name in UNUSED_CLIP:
            continue
        target = next(
            (re.sub(rule, new, name) for rule, new in CLIP_RULES if re.fullmatch(rule, name)), f"clip.{name}"
        )
        for old, new in BLOCK_RULES:
            target = target.replace(f".{old}", f".{new}")
        if ".in_proj_" in target:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                converted[target.replace("in_proj_", f"{part}_proj.")] = piece
        else:
            converted[target] = value
    return converted


def _clip_config(weights: dict[str, torch.Tensor]) -> CLIPConfig:
    """Architecture of openai/CLIP weights, read off their shapes."""
    try:
        vision_width, _, patch_size, _ = weights["visual.conv1.weight"].shape
        vocab_size, text_width = weights["token_embedding.weight"].shape
        grid = math.isqrt(len(weights["visual.positional_embedding"]) - 1)
        projection_dim = weights["visual.proj"].shape[1]
        text_length = len(weights["positional_embedding"])
    except KeyError as error:
        raise ValueError(f"The checkpoint's CLIP is incomplete: it lacks 'clip.{error.args[0]}'.") from error
    depths = {
        prefix: len({k.split("resblocks.")[1].split(".")[0] for k in weights if k.startswith(f"{prefix}transformer.")})
        for prefix in ("", "visual.")
    }
    vision = CLIPVisionConfig(
        hidden_size=vision_width,
        intermediate_size=4 * vision_width,
        num_hidden_layers=depths["visual."],
        num_attention_heads=max(1, vision_width // HEAD_SIZE),
        patch_size=patch_size,
        image_size=grid * patch_size,
        projection_dim=projection_dim,
    )
    text = CLIPTextConfig(
        hidden_size=text_width,
        intermediate_size=4 * text_width,
        num_hidden_layers=depths[""],
        num_attention_heads=max(1, text_width // HEAD_SIZE),
        vocab_size=vocab_size,
        max_position_embeddings=text_length,
        projection_dim=projection_dim,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )
    return CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=projection_dim)


def _check(converted: dict[str, torch.Tensor], unknown: list[str], expected: dict[str, torch.Tensor]):
    unknown = sorted([*unknown, *(converted.keys() - expected.keys())])
    missing = sorted(expected.keys() - converted.keys())
    misshaped = [
        f"{name}: {tuple(converted[name].shape)} where {tuple(value.shape)} is needed"
        for name, value in expected.items()
        if name in converted and converted[name].shape != value.shape
    ]
    problems = [
        f"{label} {names}"
        for label, names in (("unknown", unknown), ("missing", missing), ("misshaped", misshaped))
        if names
    ]
    if problems:
        raise ValueError(f"The checkpoint does not fit: {'; '.join(problems)}.")


__all__ = [
    "convert_original_checkpoint",
    "get_benchmark",
    "original_filename",
]
