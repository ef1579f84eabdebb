"""Checkpoints of a few kilobytes on disk: CLIP with its tokenizer, ours, and one as the authors' code writes them."""

from pathlib import Path
from string import ascii_lowercase

import torch
from parity import FIXTURES, draw_weight, read_json
from transformers import CLIPTokenizer

from modeling_r2tuning import R2TuningProcessor, save_checkpoint
from modeling_r2tuning.processing_r2tuning import make_image_processor


HEADS_OF_MOMENTS = ("pyramid.", "coord_head.")


def make_tokenizer(max_length=16):
    """Letters are tokens, other characters are unknown; 64 tokens in all."""
    fillers = list("0123456789")
    tokens = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase), *fillers]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
    tokenizer.model_max_length = max_length
    return tokenizer


def save_clip(clip, folder):
    """Save all that a CLIP repository holds."""
    for part in (clip, make_tokenizer(), make_image_processor(64)):
        part.save_pretrained(folder)
    return folder


def save_ours(model, folder, **settings):
    save_checkpoint(model, R2TuningProcessor(make_image_processor(64), make_tokenizer(), **settings), folder)
    return folder


def released_state_dict(with_moments=True):
    """Weights of the small case S1; without moment head as for TVSum: one level, no frame times."""
    shapes = read_json(FIXTURES, "shapes")["s1"]
    if not with_moments:
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith(HEADS_OF_MOMENTS)}
        shapes |= {"coef": [1], "adapter.video_map.2.weight": [32, 64]}
        shapes |= {f"adapter.video_map.0.{part}": [64] for part in ("weight", "bias")}
    return {key: torch.from_numpy(draw_weight(key, tuple(shape))) for key, shape in shapes.items()}


def openai_state_dict(clip):
    """The weights of a `CLIPModel` under the names of openai/CLIP, as the authors' code saves them."""
    vision, text = clip.vision_model, clip.text_model
    weights = {
        "visual.class_embedding": vision.embeddings.class_embedding,
        "visual.positional_embedding": vision.embeddings.position_embedding.weight,
        "visual.conv1.weight": vision.embeddings.patch_embedding.weight,
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "positional_embedding": text.embeddings.position_embedding.weight,
    }
    norms = {"visual.ln_pre": vision.pre_layrnorm, "visual.ln_post": vision.post_layernorm}
    for name, norm in (norms | {"ln_final": text.final_layer_norm}).items():
        weights |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    for prefix, tower in (("visual.transformer", vision), ("transformer", text)):
        for index, layer in enumerate(tower.encoder.layers):
            weights |= _openai_block(f"{prefix}.resblocks.{index}", layer)
    return {f"clip.{name}": value.detach().clone() for name, value in weights.items()}


def _openai_block(prefix, layer):
    attention = layer.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    parts = {
        "attn.out_proj": attention.out_proj,
        "ln_1": layer.layer_norm1,
        "ln_2": layer.layer_norm2,
        "mlp.c_fc": layer.mlp.fc1,
        "mlp.c_proj": layer.mlp.fc2,
    }
    weights = {
        f"{prefix}.{name}.{kind}": getattr(part, kind) for name, part in parts.items() for kind in ("weight", "bias")
    }
    for kind in ("weight", "bias"):
        weights[f"{prefix}.attn.in_proj_{kind}"] = torch.cat([getattr(part, kind) for part in projections])
    return weights


def save_released(path, with_moments=True, **more):
    """Write a `.pth` file as the authors' publishing tool does."""
    torch.save({"meta": {"epoch": 30}, "state_dict": {**released_state_dict(with_moments), **more}}, path)
    return Path(path)
