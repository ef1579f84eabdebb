"""A tiny random backbone of every kind, with a tokenizer of its own class trained on sentences in several scripts."""

import json

import pytest
import tokenizers
import torch
import transformers
from tiny_models import TINY
from tokenizers import models, normalizers, pre_tokenizers, trainers

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from modeling_r2tuning.tower_specs_r2tuning import TOWER_SPECS


SENTENCES = [
    "a man in a red shirt opens the door",
    "two people laugh at the table",
    "ein Mann öffnet die Tür",
    "一个人打开门",
    "人们在笑",
    "человек открывает дверь",
    "رجل يفتح الباب",
    "한 남자가 문을 연다",
]
KINDS = list(TOWER_SPECS)
DISTINCT = (
    "clip",
    "siglip",
    "chinese_clip",
)  # kinds that differ most; MetaCLIP 2 is built like CLIP, AltCLIP like both
VOCABULARY = 320
# Encoders of unequal width and depth; patches of another number than CLIP's.
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 48,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 24,
    "vocab_size": VOCABULARY,
}
MARKS = {"pad": "<pad>", "eos": "</s>", "bos": "<s>", "unk": "<unk>", "mask": "<mask>"}


def as_parameters(values, default=DISTINCT):
    """Parameters of a test; it runs by default for the kinds in `default`, for others as an integration test.

    Args:
        values: Kinds, or tuples whose first entry is a kind.
        default: Kinds.
    """
    parameters = []
    for value in values:
        entries = value if isinstance(value, tuple) else (value,)
        marks = () if entries[0] in default else pytest.mark.integration
        parameters.append(pytest.param(*entries, marks=marks, id="-".join(entries)))
    return parameters


def make_tokenizer(kind):
    """A tokenizer as the backbones of this kind have."""
    make = {
        "clip": _clip,
        "metaclip_2": _xlm_roberta,
        "altclip": _xlm_roberta,
        "siglip": _gemma,
        "chinese_clip": _bert,
    }
    return make[kind]()


def make_image_processor(kind):
    """An image processor of the class and with the settings of published checkpoints, for tiny frames."""
    side = VISION["image_size"]
    square = {"height": side, "width": side}
    if kind == "siglip":
        return transformers.SiglipImageProcessor(size=square)
    if kind == "chinese_clip":
        return transformers.ChineseCLIPImageProcessor(size=square, do_center_crop=False)
    return transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=square)


def make_backbone(kind, seed=0):
    """A backbone with random weights that are large enough to tell inputs apart."""
    tokenizer = make_tokenizer(kind)
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    known = {name: value for name, value in marks.items() if value is not None}
    spec = TOWER_SPECS[kind]
    widths = {"projection_dim": 16} if kind != "siglip" else {}
    text = {**TEXT, **known}
    if kind == "altclip":
        text["project_dim"] = 16
    if kind == "siglip":
        text["projection_size"] = VISION["hidden_size"]  # images are not projected
    config = spec.config_class(vision_config=dict(VISION), text_config=text, **widths)
    torch.manual_seed(seed)
    model = getattr(transformers, spec.model_class)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model


def save_backbone(kind, folder, seed=0):
    """All that a repository of this kind holds."""
    backbone = make_backbone(kind, seed)
    for part in (backbone, make_tokenizer(kind), make_image_processor(kind)):
        part.save_pretrained(folder)
    return backbone


def make_model(kind, backbone=None, **fields):
    """Our model on a tiny backbone."""
    backbone = make_backbone(kind) if backbone is None else backbone
    config = R2TuningConfig(
        vision_config=backbone.config.vision_config,
        text_config=backbone.config.text_config,
        **{**TINY, "dropout": 0.0, "save_backbone": True, "backbone_name_or_path": None, **fields},
    )
    torch.manual_seed(1)
    model = R2TuningForVideoGrounding(config)
    model.copy_backbone(backbone.vision_model, backbone.text_model)
    return model.eval()


# ---- tokenizers ------------------------------------------------------------------------------------------------------


def _trained(model, trainer, normalizer=None, pre_tokenizer=None):
    tokenizer = tokenizers.Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    return tokenizer


def _clip():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)][: VOCABULARY - 2]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocabulary, [], model_max_length=TEXT["max_position_embeddings"])


def _xlm_roberta():
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - 1, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer = _trained(models.Unigram(), trainer, pre_tokenizer=pre_tokenizers.Metaspace())
    pieces = [(token, score) for token, score in _unigram(tokenizer) if token not in specials]
    vocabulary = [*((token, 0.0) for token in specials), *pieces, ("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=vocabulary)


def _unigram(tokenizer):
    return [tuple(piece) for piece in json.loads(tokenizer.to_str())["model"]["vocab"]]


def _gemma():
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, max_token_length=4, special_tokens=specials, show_progress=False
    )
    tokenizer = _trained(models.BPE(unk_token="<unk>"), trainer, normalizer=normalizers.Replace(" ", "▁"))
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return transformers.GemmaTokenizer(
        vocab=model["vocab"], merges=merges, add_bos_token=False, add_eos_token=True, padding_side="right"
    )


def _bert():
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=specials, show_progress=False)
    tokenizer = _trained(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=normalizers.BertNormalizer(),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
    )
    return transformers.BertTokenizer(vocab=tokenizer.get_vocab())
