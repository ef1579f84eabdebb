"""Tokenizers that need care: SigLIP's first one, which runs in sentencepiece, and those without a token for the end."""

import json
import os
import shutil

import pytest
import torch
import transformers
from fresh_python import run_fresh
from tiny_towers import SENTENCES, TEXT, make_backbone, make_image_processor, make_model, make_tokenizer

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint
from modeling_r2tuning.loading_r2tuning import loading
from r2tuning.hub.model_card import write_model_card
from r2tuning.hub.push import _check_complete, _is_published


LONGEST = TEXT["max_position_embeddings"]
# As where sentencepiece is not installed.
WITHOUT_SENTENCEPIECE = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "sentencepiece" else find_spec(name, *rest)
sys.modules["sentencepiece"] = None
from modeling_r2tuning import R2TuningProcessor
for load in (R2TuningProcessor.from_backbone, R2TuningProcessor.from_pretrained):
    try:
        load(sys.argv[1 if load == R2TuningProcessor.from_backbone else 2])
    except ImportError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A SigLIP with the tokenizer that its first checkpoints have."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="SigLIP's first tokenizer needs sentencepiece")
    pytest.importorskip("google.protobuf", reason="SigLIP's first tokenizer needs protobuf")
    folder = tmp_path_factory.mktemp("siglip")
    (folder / "text.txt").write_text("\n".join(text.lower() for text in SENTENCES * 4), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=200,
        hard_vocab_limit=False,
        character_coverage=1.0,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    tokenizer = transformers.SiglipTokenizer(str(folder / "spiece.model"), model_max_length=LONGEST)
    for part in (make_backbone("siglip"), tokenizer, make_image_processor("siglip")):
        part.save_pretrained(folder / "backbone")
    assert not (folder / "backbone/tokenizer.json").exists()
    return folder / "backbone"


@pytest.fixture(scope="module")
def checkpoint(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(make_model("siglip"), R2TuningProcessor.from_backbone(backbone), folder)
    return folder


def test_texts_are_tokenized_and_padded_as_trained(backbone):
    processor = R2TuningProcessor.from_backbone(backbone)
    assert type(processor.tokenizer) is transformers.SiglipTokenizer
    texts = [*SENTENCES, "Two PEOPLE laugh!", " ".join(SENTENCES)]
    got = processor(text=texts)
    options = {"padding": "max_length", "max_length": LONGEST, "truncation": True, "return_tensors": "pt"}
    want = processor.tokenizer(texts, **options)
    assert torch.equal(got["input_ids"], want["input_ids"])
    assert torch.equal(got["attention_mask"], want["attention_mask"].bool())


@torch.no_grad()
def test_a_checkpoint_answers_and_comes_back(checkpoint):
    processor = R2TuningProcessor.from_pretrained(checkpoint)
    model = R2TuningForVideoGrounding.from_pretrained(checkpoint)
    outputs = model(**processor(videos=torch.rand(3, 3, 48, 48), text=SENTENCES[:2]))
    assert outputs.logits.isfinite().all()
    assert not torch.allclose(outputs.logits[0], outputs.logits[1])


def test_a_checkpoint_is_published_with_its_vocabulary(checkpoint, tmp_path):
    _check_complete(checkpoint)
    assert _is_published("spiece.model")
    write_model_card(checkpoint)
    assert "`av`, `sentencepiece` and `protobuf`" in (checkpoint / "README.md").read_text(encoding="utf-8")


def test_a_checkpoint_without_vocabulary_is_not_published(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "broken")
    (tmp_path / "broken/spiece.model").unlink()
    with pytest.raises(ValueError, match="lacks tokenizer.json"):
        _check_complete(tmp_path / "broken")


@pytest.mark.integration
def test_the_missing_package_is_named(backbone, checkpoint, tmp_path):
    result = run_fresh(["-c", WITHOUT_SENTENCEPIECE, backbone, checkpoint], dict(os.environ), tmp_path)
    lines = result.stdout.strip().splitlines()
    assert len(lines) == 2, result.stderr[-2000:]
    for line, folder in zip(lines, (backbone, checkpoint), strict=True):
        assert f"The tokenizer of '{folder}' needs sentencepiece, which is not installed" in line
        assert 'pip install "r2tuning[siglip]"' in line


def test_the_reason_that_transformers_gives_becomes_advice():
    reason = "\nSiglipTokenizer requires the SentencePiece library but it was not found in your environment. Check out"
    with (
        pytest.raises(ImportError, match=r"'org/name' needs sentencepiece.*r2tuning\[siglip\]"),
        loading("org/name", ()),
    ):
        raise ImportError(reason)


def test_other_missing_packages_are_not_blamed_on_the_tokenizer():
    with pytest.raises(ImportError, match="^needs peft$"), loading("org/name", ()):
        raise ImportError("needs peft")


def test_a_text_without_a_token_for_its_end_keeps_its_beginning():
    """Only a token that marks the end is moved there; the last word of a long text is not."""
    tokenizer = make_tokenizer("siglip")
    tokenizer.add_eos_token = False
    tokenizer.backend_tokenizer.post_processor = None
    text = " ".join(SENTENCES)
    processor = R2TuningProcessor(make_image_processor("siglip"), tokenizer, max_text_length=LONGEST)
    got = processor(text=[text, "a man"])["input_ids"]
    want = tokenizer([text, "a man"], truncation=True, max_length=LONGEST)["input_ids"]
    assert got[0].tolist() == want[0]
    assert got[1].tolist()[: len(want[1])] == want[1]
    assert processor.count_tokens([text]) == [len(tokenizer(text)["input_ids"])]


def test_settings_of_the_text_are_saved(backbone, tmp_path):
    R2TuningProcessor.from_backbone(backbone).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["max_text_length"] == LONGEST
    assert settings["pad_to_max_text_length"] is settings["lowercase_text"] is True


def test_padding_is_as_long_as_the_encoder_needs_whatever_the_tokenizer_says():
    """A tokenizer may allow less than the encoder; texts are then truncated earlier, but padded to the same length."""
    tokenizer = make_tokenizer("siglip")
    tokenizer.model_max_length = LONGEST - 4
    options = {"max_text_length": LONGEST, "pad_to_max_text_length": True}
    processor = R2TuningProcessor(make_image_processor("siglip"), tokenizer, **options)
    text = processor(text=[SENTENCES[0], " ".join(SENTENCES)])
    assert text["input_ids"].shape == (2, LONGEST)
    assert int(text["attention_mask"].sum(dim=1).max()) == LONGEST - 4
    make_model("siglip").get_text_hidden_states(**text)
