"""The small CLIP before training: its tokenizer, its sizes and its initial weights.

Three choices of the initial weights save most of the training that a vision transformer needs to recognise shapes and
places: patches are whitened, position embeddings are waves as large as the content, and attention prefers tokens that
are similar and near.
"""

import json
import math
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from dataset_scripts.moving_shapes.queries import vocabulary
from r2tuning.pretraining.pictures import IMAGE_SIZE


PATCH_SIZE = 8  # pixels
NUM_HEADS = 4
VISION_HIDDEN, TEXT_HIDDEN = 128, 64
TOKEN_STD = 0.5  # of the token embeddings: large, so that words stay distinct in the frozen encoder
MAX_TEXT_LENGTH = 77  # as CLIP's
POSITION_SCALE = 2.0  # whitened patches have a variance of 1
ATTENTION_STD = 0.085  # of query and key weights: each token attends mostly to itself at first
PIXEL_NOISE = 0.02  # variance below which whitening amplifies nothing


def make_tokenizer() -> CLIPTokenizer:
    """A tokenizer in CLIP's format that has one token for each word of the benchmark and splits other words."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator([" ".join(vocabulary())] * 2, trainer)
    merges: Any = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    final_letters = [f"{letter}</w>" for letter in alphabet]
    merged = ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys([*alphabet, *final_letters, *merged]))  # without duplicates
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    token_ids = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(token_ids, merges, model_max_length=MAX_TEXT_LENGTH)


def make_clip(tokenizer: CLIPTokenizer, pixels: torch.Tensor, layers: int) -> CLIPModel:
    """A small CLIP with random weights, except for patches, positions and attention.

    Args:
        tokenizer: Its tokenizer.
        pixels: `(num_pictures, 3, size, size)`, normalised, from which the whitening of patches is computed.
        layers: Layers of each encoder.
    """
    # Eager attention is the fastest at this size on a CPU.
    clip = CLIPModel._from_config(_make_config(tokenizer, layers), attn_implementation="eager")
    embeddings = clip.vision_model.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(whitening_filters(pixels))
        code = position_code(IMAGE_SIZE // PATCH_SIZE, VISION_HIDDEN)
        embeddings.position_embedding.weight[1:] = POSITION_SCALE * code  # the first one is CLS
        for layer in clip.vision_model.encoder.layers:
            # Equal queries and keys: a token attends to tokens that are similar, in content and position.
            layer.self_attn.q_proj.weight.normal_(0, ATTENTION_STD)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
        clip.text_model.embeddings.token_embedding.weight.normal_(0, TOKEN_STD)
    return clip


def _make_config(tokenizer: CLIPTokenizer, layers: int) -> CLIPConfig:
    shared = {
        "num_hidden_layers": layers,
        "num_attention_heads": NUM_HEADS,
        "hidden_act": "gelu",  # quick_gelu is slow on a CPU
    }
    vision_config = {
        **shared,
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": 4 * VISION_HIDDEN,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
    }
    text_config = {
        **shared,
        "hidden_size": TEXT_HIDDEN,
        "intermediate_size": 4 * TEXT_HIDDEN,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPConfig(vision_config=vision_config, text_config=text_config, projection_dim=VISION_HIDDEN)


def whitening_filters(pixels: torch.Tensor) -> torch.Tensor:
    """Filters that give the strongest principal components of patches equal variance.

    With random filters the colour of a patch drowns its edges, which distinguish shapes.

    Args:
        pixels: `(num_pictures, 3, size, size)`, normalised.

    Returns:
        `torch.Tensor` of shape `(VISION_HIDDEN, 3, PATCH_SIZE, PATCH_SIZE)`.
    """
    patches = F.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE)  # (num_pictures, 3 * PATCH_SIZE**2, num_patches)
    patches = patches.transpose(1, 2).flatten(0, 1)  # (num_pictures * num_patches, 3 * PATCH_SIZE**2)
    patches = (patches - patches.mean(dim=0)).double()
    covariance = patches.T @ patches / len(patches)
    variances, components = torch.linalg.eigh(covariance)  # ascending; each column is a component
    filters = (components / (variances + PIXEL_NOISE).sqrt()).T.flip(0)[:VISION_HIDDEN]
    return filters.float().unflatten(1, (3, PATCH_SIZE, PATCH_SIZE))


def position_code(side: int, hidden: int) -> torch.Tensor:
    """Sine and cosine of the row in one half of the channels, of the column in the other half.

    Args:
        side: Rows and columns of patches.
        hidden: Number of channels, a multiple of 4.

    Returns:
        `torch.Tensor` of shape `(side * side, hidden)`.
    """
    frequencies = torch.exp(torch.linspace(math.log(math.pi / 2), math.log(math.pi * side / 2), hidden // 4))
    angles = torch.linspace(0, 1, side)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, hidden / 2)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


__all__ = ["PATCH_SIZE", "TOKEN_STD", "make_clip", "make_tokenizer", "position_code", "whitening_filters"]
