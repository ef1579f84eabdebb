"""The first stage: vectors of frames and queries, and the windows they lead to."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny_towers
import torch
from model_checks import CLOSE
from tiny_checkpoints import save_ours
from transformers import AutoModel
from video_samples import write_video

from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor, save_checkpoint


pytest.importorskip("lancedb", reason='needs LanceDB: pip install "r2tuning[library]"')

from r2tuning.library import vectors
from r2tuning.library.candidates import rank_windows
from r2tuning.library.library import Library
from r2tuning.library.tables import FrameHits
from r2tuning.library.vectors import load_projection


# ---- vectors -----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """Make a backbone and a checkpoint of ours that refers to it."""

    def save(kind):
        backbone = tiny_towers.save_backbone(kind, tmp_path / "backbone")
        model = tiny_towers.make_model(
            kind, backbone, save_backbone=False, backbone_name_or_path=str(tmp_path / "backbone"), fps=1.0
        )
        processor = R2TuningProcessor.from_backbone(tmp_path / "backbone", fps=1.0)
        save_checkpoint(model, processor, tmp_path / "model")
        return R2TuningForVideoGrounding.from_pretrained(tmp_path / "model").eval(), processor

    return save


@torch.no_grad()
@pytest.mark.parametrize("kind", tiny_towers.as_parameters(tiny_towers.KINDS))
def test_vectors_are_those_of_the_whole_backbone(saved, tmp_path, kind):
    model, processor = saved(kind)
    whole = AutoModel.from_pretrained(tmp_path / "backbone").eval()
    projection = load_projection(model)
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    states = model.get_video_hidden_states(pixels[None])[0]
    images = whole.get_image_features(pixel_values=pixels)
    images = torch.nn.functional.normalize(getattr(images, "pooler_output", images), dim=-1)
    torch.testing.assert_close(projection.frames(states[:, -1, 0]), images, **CLOSE)
    tokens = dict(processor(text=["a man opens the door", "人们在笑"]))
    padding_is_read = model.config.tower_spec.text_attention == "fixed_length"
    read = {"input_ids": tokens["input_ids"]} if padding_is_read else tokens
    texts = whole.get_text_features(**read)
    texts = torch.nn.functional.normalize(getattr(texts, "pooler_output", texts), dim=-1)
    torch.testing.assert_close(projection.queries(**tokens), texts, **CLOSE)
    assert projection.dim == images.shape[1] == texts.shape[1]


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_library_uses_the_projections_of_the_backbone(saved, tmp_path, kind):
    """Its vectors are in the tables, and a search finds the frame that resembles the query most."""
    model, processor = saved(kind)
    path = write_video(tmp_path / "a.mp4", count=40, rate=5)
    library = Library.create(tmp_path / "lib", model, processor)
    library.add([path])
    assert library.settings.projection == library.projection.digest()
    stored = library.tables.search(np.eye(library.settings.dim, dtype=np.float32)[:1], 100)[0]
    pixels = torch.cat(list(processor.stream_video(path)))
    frames = library.projection.frames(model.get_video_hidden_states(pixels[None])[0][:, -1, 0])
    order = np.argsort(stored.frame)
    np.testing.assert_allclose(stored.similarity[order], frames[:, 0].numpy(), atol=1e-3)
    opened = Library.open(tmp_path / "lib")
    assert opened.search("a man")[0].moments == library.search("a man")[0].moments
    with torch.no_grad():
        opened.projection.backbone.get_submodule("text_model").get_parameter("embeddings.token_embedding.weight")[
            0
        ] += 1
    assert opened.projection.digest() != library.settings.projection


def test_other_checkpoints_use_the_vectors_of_the_block(make_model, tmp_path):
    """Checkpoints that hold their backbone, and methods that learn inside it or mix frames."""
    assert load_projection(make_model()) is not None
    assert load_projection(make_model(save_backbone=True)) is None
    assert load_projection(make_model(method="vpt", num_recurrent_steps=1)) is None
    assert load_projection(make_model(method="lora", num_recurrent_steps=1)) is None


def test_a_backbone_without_projections_uses_the_vectors_of_the_block(make_model, tiny_clip, tmp_path):
    """transformers would fill in random ones."""
    weights = {name: value for name, value in tiny_clip.state_dict().items() if "projection" not in name}
    tiny_clip.save_pretrained(tmp_path / "clip", state_dict=weights)
    assert load_projection(make_model(backbone_name_or_path=str(tmp_path / "clip"))) is None


def test_a_backbone_that_has_changed_is_refused(make_model, tiny_clip, tmp_path, processor):
    tiny_clip.save_pretrained(tmp_path / "clip")
    folder = save_ours(make_model(backbone_name_or_path=str(tmp_path / "clip")), tmp_path / "model")
    model = R2TuningForVideoGrounding.from_pretrained(folder)
    library = Library.create(tmp_path / "lib", model, R2TuningProcessor.from_pretrained(folder))
    assert library.settings.backbone == str(tmp_path / "clip")
    changed = {**tiny_clip.state_dict(), "visual_projection.weight": tiny_clip.visual_projection.weight + 0.1}
    tiny_clip.save_pretrained(tmp_path / "clip", state_dict=changed)
    with pytest.raises(
        ValueError, match="made with another checkpoint or backbone than this one: .*model' on '.*clip'"
    ):
        Library.open(tmp_path / "lib")


def test_the_revision_of_the_backbone_is_kept(make_model, tmp_path, monkeypatch):
    """On the Hub another revision may hold other weights."""
    folder = save_ours(make_model(backbone_revision="v1"), tmp_path / "model")
    revisions = []
    load = vectors.load_whole_backbone

    def spy(name, config, revision):
        revisions.append(revision)
        return load(name, config, revision=revision)

    monkeypatch.setattr(vectors, "load_whole_backbone", spy)
    model, processor = R2TuningForVideoGrounding.from_pretrained(folder), R2TuningProcessor.from_pretrained(folder)
    assert Library.create(tmp_path / "lib", model, processor).settings.backbone_revision == "v1"
    assert Library.open(tmp_path / "lib").model.config.backbone_revision == "v1"
    assert revisions == ["v1", "v1"]


# ---- windows -----------------------------------------------------------------------------------------------------


def videos(**num_frames):
    """Videos by entry, with so many frames; only these and the path matter here."""
    return {int(entry[1:]): SimpleNamespace(num_frames=count, path=entry) for entry, count in num_frames.items()}


def hits(*rows):
    entry, window, similarity = zip(*rows, strict=True)
    frames = np.arange(len(rows), dtype=np.int32)
    return FrameHits(np.array(entry), frames, np.array(window, np.int32), np.array(similarity, np.float32))


def test_a_window_scores_the_mean_of_its_four_best_frames():
    """One frame alone does not make a window: the frames that were not found count as the worst that was."""
    found = hits((1, 0, 0.9), (2, 3, 0.8), (2, 3, 0.8), (2, 3, 0.7), (2, 3, 0.7), (2, 3, 0.6), (1, 1, 0.2))
    best = rank_windows(found, videos(v1=100, v2=100), 10)
    assert [(candidate.entry, candidate.window) for candidate in best] == [(2, 3), (1, 0), (1, 1)]
    assert [candidate.similarity for candidate in best] == pytest.approx([0.75, (0.9 + 0.6) / 4, 0.2])
    assert rank_windows(found, videos(v1=100, v2=100), 2) == best[:2]


def test_a_short_video_scores_the_mean_of_all_its_frames():
    found = hits((1, 0, 0.9), (1, 0, 0.7), (2, 0, 0.1))
    assert rank_windows(found, videos(v1=2, v2=50), 1)[0].similarity == pytest.approx(0.8)


def test_equal_windows_come_in_the_order_of_their_paths():
    """Entries are random numbers, so that they must not decide."""
    found = hits((5, 1, 0.5), (5, 0, 0.5), (3, 0, 0.5))
    records = {5: SimpleNamespace(num_frames=1, path="a"), 3: SimpleNamespace(num_frames=1, path="b")}
    assert [candidate[:2] for candidate in rank_windows(found, records, 3)] == [(5, 0), (5, 1), (3, 0)]


def test_no_hits_are_no_windows():
    nothing = FrameHits(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert rank_windows(nothing, {}, 5) == []
