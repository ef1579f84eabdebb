"""The small backbones before training: their tokenizer, their sizes and their initial weights.

Three choices of the initial weights save most of the training that a vision transformer needs to recognise shapes and
places: patches are whitened, position embeddings are waves as large as the content, and attention prefers tokens that
are similar and near.
"""

import json
import math
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, SiglipConfig, SiglipModel

from dataset_scripts.moving_shapes.queries import vocabulary
from r2tuning.pretraining.pictures import IMAGE_SIZE


PATCH_SIZE = 8  # pixels
NUM_HEADS = 4
VISION_HIDDEN, TEXT_HIDDEN = 128, 64
TOKEN_STD = 0.5  # of the token embeddings: large, so that words stay distinct in the frozen encoder
SIGLIP_TOKEN_STD = 1.0  # larger, as words also see those that follow them and padding
MAX_TEXT_LENGTH = 77  # as CLIP's
SIGLIP_TEXT_LENGTH = 48  # every text is padded to it; the longest caption has 45 tokens
POSITION_SCALE = 2.0  # whitened patches have a variance of 1
ATTENTION_STD = 0.085  # of query and key weights: each token attends mostly to itself at first
PIXEL_NOISE = 0.02  # variance below which whitening amplifies nothing
SIGLIP_PIXEL_NOISE = 0.006  # the same of SigLIP's pixels, whose deviation is 0.54 times that of CLIP's
SIGLIP_LOGIT_SCALE = 2.6592  # logarithm of the factor, as CLIP's
SIGLIP_LOGIT_BIAS = -4.6  # at first a pair matches with the share of matches among the pairs of a batch, 1 %


def make_tokenizer(max_length: int = MAX_TEXT_LENGTH) -> CLIPTokenizer:
    """A tokenizer in CLIP's format that has one token for each word of the benchmark and splits other words.

    Args:
        max_length: Largest number of tokens of a text.
    """
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
    return CLIPTokenizer(token_ids, merges, model_max_length=max_length)


def make_clip(tokenizer: CLIPTokenizer, pixels: torch.Tensor, layers: int) -> CLIPModel:
    """A small CLIP with random weights, except for patches, positions and attention.

    Args:
        tokenizer: Its tokenizer.
        pixels: `(num_pictures, 3, size, size)`, normalised, from which the whitening of patches is computed.
        layers: Layers of each encoder.
    """
    # Eager attention is the fastest at this size on a CPU.
    clip = CLIPModel._from_config(_make_clip_config(tokenizer, layers), attn_implementation="eager")
    embeddings = clip.vision_model.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.copy_(whitening_filters(pixels))
        code = position_code(IMAGE_SIZE // PATCH_SIZE, VISION_HIDDEN)
        embeddings.position_embedding.weight[1:] = POSITION_SCALE * code  # the first one is CLS
        _prefer_similar_tokens(clip.vision_model.encoder.layers)
        clip.text_model.embeddings.token_embedding.weight.normal_(0, TOKEN_STD)
    return clip


def make_siglip(tokenizer: CLIPTokenizer, pixels: torch.Tensor, layers: int) -> SiglipModel:
    """A small SigLIP with random weights, except for patches, positions and attention.

    Args:
        tokenizer: Its tokenizer.
        pixels: `(num_pictures, 3, size, size)`, normalised, from which the whitening of patches is computed.
        layers: Layers of each encoder.
    """
    siglip = SiglipModel._from_config(_make_siglip_config(tokenizer, layers), attn_implementation="eager")
    embeddings = siglip.vision_model.embeddings
    with torch.no_grad():
        # No norm follows the embeddings, unlike in CLIP, so they are scaled to a variance of 1 here: whitened patches
        # have a variance of 1, the waves of half the square of their scale.
        deviation = (1 + POSITION_SCALE**2 / 2) ** 0.5
        filters = whitening_filters(pixels, SIGLIP_PIXEL_NOISE) / deviation
        embeddings.patch_embedding.weight.copy_(filters)
        mean_patch = F.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE).mean(dim=(0, 2))  # (3 * PATCH_SIZE**2,)
        embeddings.patch_embedding.bias.copy_(-filters.flatten(1) @ mean_patch)
        code = position_code(IMAGE_SIZE // PATCH_SIZE, VISION_HIDDEN)
        embeddings.position_embedding.weight.copy_(POSITION_SCALE * code / deviation)
        _prefer_similar_tokens(siglip.vision_model.encoder.layers)
        _shrink_branches(siglip.vision_model.encoder.layers)
        _shrink_branches(siglip.text_model.encoder.layers)
        siglip.text_model.embeddings.token_embedding.weight.normal_(0, SIGLIP_TOKEN_STD)
        siglip.logit_scale.fill_(SIGLIP_LOGIT_SCALE)
        siglip.logit_bias.fill_(SIGLIP_LOGIT_BIAS)
    return siglip


def _prefer_similar_tokens(layers: Collection[Any]) -> None:
    """Equal queries and keys: a token attends to tokens that are similar, in content and position."""
    for layer in layers:
        layer.self_attn.q_proj.weight.normal_(0, ATTENTION_STD)
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


def _shrink_branches(layers: Collection[Any]) -> None:
    """Attention and MLP add little to a token at first, as CLIP initialises them, so that words stay distinct."""
    factor = (2 * len(layers)) ** -0.5  # there are two branches in a layer
    for layer in layers:
        layer.self_attn.v_proj.weight.mul_(factor)
        layer.mlp.fc2.weight.mul_(factor)


def _make_clip_config(tokenizer: CLIPTokenizer, layers: int) -> CLIPConfig:
    vision_config, text_config = _make_encoder_configs(tokenizer, layers)
    return CLIPConfig(vision_config=vision_config, text_config=text_config, projection_dim=VISION_HIDDEN)


def _make_siglip_config(tokenizer: CLIPTokenizer, layers: int) -> SiglipConfig:
    vision_config, text_config = _make_encoder_configs(tokenizer, layers)
    text_config["max_position_embeddings"] = tokenizer.model_max_length
    text_config["projection_size"] = VISION_HIDDEN  # the image encoder has no projection
    return SiglipConfig(vision_config=vision_config, text_config=text_config)


def _make_encoder_configs(tokenizer: CLIPTokenizer, layers: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of the configurations of the image and the text encoder that both kinds share."""
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
    return vision_config, text_config


def whitening_filters(pixels: torch.Tensor, noise: float = PIXEL_NOISE) -> torch.Tensor:
    """Filters that give the strongest principal components of patches equal variance.

    With random filters the colour of a patch drowns its edges, which distinguish shapes.

    Args:
        pixels: `(num_pictures, 3, size, size)`, normalised.
        noise: Variance of components that are not amplified.

    Returns:
        `torch.Tensor` of shape `(VISION_HIDDEN, 3, PATCH_SIZE, PATCH_SIZE)`.
    """
    patches = F.unfold(pixels, PATCH_SIZE, stride=PATCH_SIZE)  # (num_pictures, 3 * PATCH_SIZE**2, num_patches)
    patches = patches.transpose(1, 2).flatten(0, 1)  # (num_pictures * num_patches, 3 * PATCH_SIZE**2)
    patches = (patches - patches.mean(dim=0)).double()
    covariance = patches.T @ patches / len(patches)
    variances, components = torch.linalg.eigh(covariance)  # ascending; each column is a component
    filters = (components / (variances + noise).sqrt()).T.flip(0)[:VISION_HIDDEN]
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


__all__ = [
    "PATCH_SIZE",
    "SIGLIP_TEXT_LENGTH",
    "TOKEN_STD",
    "make_clip",
    "make_siglip",
    "make_tokenizer",
    "position_code",
    "whitening_filters",
]
