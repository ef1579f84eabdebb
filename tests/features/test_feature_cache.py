"""The feature cache on disk: names, files, settings, errors, and the caches that the authors published."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r2tuning.features.cache import FeatureCache
from r2tuning.features.files import load_features, query_path, replacing, safe_name, save_features, video_path
from r2tuning.features.settings import FORMAT, ONE_PER_UNIT, fingerprint, prepare_folder, settings_digest
from r2tuning.json_files import write_json


NUM_LAYERS, NUM_TOKENS, WIDTH, TEXT_WIDTH = 3, 5, 64, 48
TEXT = "a man waves"


def video_states(num_frames=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_frames, NUM_LAYERS, NUM_TOKENS, WIDTH, generator=generator).half()


def text_states(length=4, seed=1):
    return torch.randn(length, NUM_LAYERS, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed)).half()


@pytest.fixture
def settings(tiny_model):
    return {
        "format": FORMAT,
        "store": "features",
        "benchmark": "tacos",
        "fps": 0.5,
        "clip": "tiny",
        "clip_weights": fingerprint(tiny_model),
        "num_layers": NUM_LAYERS,
    }


@pytest.fixture
def folder(tmp_path, settings):
    """A cache of the video `v` and the query `q`."""
    folder = tmp_path / "cache"
    prepare_folder(folder, settings)
    mark = {"settings": settings_digest(settings)}
    save_features(folder, video_path(folder, "v"), video_states(), {"id": "v", **mark})
    save_features(folder, query_path(folder, "q", TEXT), text_states(), {"id": "q", "text": TEXT, **mark})
    return folder


@pytest.fixture
def official(tmp_path):
    """A folder as the authors publish it."""
    for name in ("clip_b32_vid_k4", "clip_b32_txt_k4"):
        (tmp_path / "tacos" / name).mkdir(parents=True)
    np.save(tmp_path / "tacos/clip_b32_vid_k4/s1-cam-002.npy", video_states().numpy())
    np.save(tmp_path / "tacos/clip_b32_vid_k4/flat.npy", video_states().float().flatten(1).numpy())
    np.save(tmp_path / "tacos/clip_b32_txt_k4/s1_0.npy", text_states().numpy())
    np.save(tmp_path / "tacos/clip_b32_txt_k4/flat.npy", text_states().flatten(1).numpy())
    return tmp_path / "tacos"


# ---- names ---------------------------------------------------------------------------------------------------------

ODD_IDS = ["", ".", "..", "a/b", "a%2Fb", "a\\b", "a b", "A", "a", "ä", "日本" * 60, "x" * 200, "x" * 201, "x" * 1000]


def test_every_id_has_its_own_file(tmp_path):
    names = [safe_name(identifier) for identifier in ODD_IDS]
    assert len(set(names)) == len(ODD_IDS)
    for identifier in ODD_IDS:
        for path in (video_path(tmp_path, identifier), query_path(tmp_path, identifier, "text")):
            path.parent.mkdir(exist_ok=True)
            path.write_text(identifier)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2 * len(ODD_IDS)


@given(st.text(max_size=300), st.text(max_size=300))
def test_different_ids_have_different_names(one, other):
    assert (safe_name(one) == safe_name(other)) == (one == other)
    assert "/" not in safe_name(one)


def test_a_shortened_name_equals_no_other_id():
    long = "x" * 1000
    assert safe_name(safe_name(long)) != safe_name(long)


@pytest.mark.parametrize("identifier", ["RoripwjYFp8_60.0_210.0", "s13-d21", "-esJrBWj2d8", "AO8RW~x"])
def test_common_ids_are_kept_as_names(identifier):
    assert safe_name(identifier) == identifier


# ---- reading -------------------------------------------------------------------------------------------------------


def test_saved_features_are_read_back(folder, tiny_model):
    cache = FeatureCache(folder, model=tiny_model, fps=0.5)
    assert torch.equal(cache.video("v"), video_states())
    assert torch.equal(cache.query("q", TEXT), text_states())
    assert cache.settings["benchmark"] == "tacos"


def test_one_qid_with_two_texts_is_two_queries(folder, settings):
    other = {"id": "q", "text": "another", "settings": settings_digest(settings)}
    save_features(folder, query_path(folder, "q", "another"), text_states(seed=2), other)
    cache = FeatureCache(folder)
    assert torch.equal(cache.query("q", TEXT), text_states())
    assert torch.equal(cache.query("q", "another"), text_states(seed=2))


def test_missing_features_are_reported(folder):
    cache = FeatureCache(folder)
    with pytest.raises(FileNotFoundError, match=r"videos/other\.safetensors.*r2tuning extract"):
        cache.video("other")
    with pytest.raises(FileNotFoundError, match="queries/q-"):
        cache.query("q", "a text that was not extracted")


def test_a_slice_does_not_read_the_file(folder, settings):
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory in use is read from /proc")
    states = torch.zeros(2000, NUM_LAYERS, 50, 128, dtype=torch.float16)  # 77 MB
    save_features(folder, video_path(folder, "long"), states, {"id": "long", "settings": settings_digest(settings)})
    cache = FeatureCache(folder, check=False)
    before = resident_megabytes()
    part = cache.video("long")[1000:1010].float()
    assert part.shape == (10, NUM_LAYERS, 50, 128)
    assert resident_megabytes() - before < 20


def resident_megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_changing_the_tensor_does_not_change_the_file(folder):
    FeatureCache(folder).video("v").zero_()
    assert torch.equal(FeatureCache(folder).video("v"), video_states())


def test_a_cache_can_be_pickled(folder, tiny_model):
    cache = pickle.loads(pickle.dumps(FeatureCache(folder, model=tiny_model)))
    assert torch.equal(cache.video("v"), video_states())


# ---- corrupt files -------------------------------------------------------------------------------------------------


def flip(data, position):
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


CORRUPTIONS = {
    "empty": lambda data: b"",
    "garbage": lambda data: b"garbage" * 100,
    "cut in the header": lambda data: data[:20],
    "cut in the data": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "flipped in the data": lambda data: flip(data, len(data) - 1000),
    "flipped in the record": lambda data: data.replace(b'\\"id\\": \\"v\\"', b'\\"id\\": \\"w\\"'),
    "flipped shape": lambda data: data.replace(b"[6,3,5,64]", b"[6,5,3,64]"),
    "no record": lambda data: data.replace(b'"record"', b'"recorb"'),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupt_file_is_reported(folder, corruption):
    path = video_path(folder, "v")
    data = path.read_bytes()
    path.write_bytes(CORRUPTIONS[corruption](data))
    assert path.read_bytes() != data
    with pytest.raises(ValueError, match=r"videos/v\.safetensors' is corrupt.*r2tuning extract` again"):
        FeatureCache(folder).video("v")


def test_the_checksum_is_verified_on_first_reading_only(folder):
    cache, unchecked = FeatureCache(folder), FeatureCache(folder, check=False)
    cache.video("v")
    path = video_path(folder, "v")
    path.write_bytes(CORRUPTIONS["flipped in the data"](path.read_bytes()))
    for tolerant in (cache, unchecked):
        assert tolerant.video("v").shape == video_states().shape


def test_a_file_of_another_cache_is_refused(folder, settings):
    other = {"id": "v", "settings": settings_digest({**settings, "num_layers": 2})}
    save_features(folder, video_path(folder, "v"), video_states(), other)
    with pytest.raises(ValueError, match="belongs to another cache"):
        FeatureCache(folder).video("v")


def test_a_file_of_another_id_is_refused(folder):
    os.replace(video_path(folder, "v"), video_path(folder, "w"))
    with pytest.raises(ValueError, match="to another id"):
        FeatureCache(folder).video("w")


# ---- writing -------------------------------------------------------------------------------------------------------


def test_equal_content_gives_equal_files(folder):
    path = video_path(folder, "v")
    before = path.read_bytes()
    states, record = load_features(path)
    save_features(folder, path, states.clone(), dict(reversed(record.items())))
    assert path.read_bytes() == before


def test_a_failure_while_writing_keeps_the_old_file(folder):
    path = video_path(folder, "v")
    before = path.read_bytes()
    with pytest.raises(OSError, match="disk is full"):
        write_half(folder, path)
    assert path.read_bytes() == before
    assert list((folder / "partial").iterdir()) == []


def test_files_have_the_usual_mode(folder):
    (folder / "usual").touch()
    assert video_path(folder, "v").stat().st_mode == (folder / "usual").stat().st_mode


def write_half(folder, path):
    with replacing(folder, path) as partial:
        partial.write_bytes(b"half")
        raise OSError("the disk is full")


def test_only_abandoned_partial_files_are_removed(folder, settings):
    """Those of a killed process, and old ones of earlier versions."""
    killed, earlier, in_use = (
        folder / "partial" / name for name in (".r2tuning-a.partial", "host-1.mp4", "host-2.mp4")
    )
    killed.mkdir()
    (killed / "video.mp4").write_text("x")
    for path in (earlier, in_use):
        path.write_text("x")
    os.utime(earlier, (0, 0))
    with replacing(folder, video_path(folder, "v")):
        prepare_folder(folder, settings)
        assert not killed.exists()
        assert not earlier.exists()
        assert len(list((folder / "partial").iterdir())) == 2


# ---- settings ------------------------------------------------------------------------------------------------------


def test_another_clip_is_refused(folder, make_model):
    model = make_model()
    with torch.no_grad():
        model.text_model.final_layer_norm.weight[0] += 0.1
    with pytest.raises(ValueError, match=rf'`clip_weights` is "\w+" there, "{fingerprint(model)}" is needed.*"tiny"'):
        FeatureCache(folder, model=model)


def test_too_few_layers_are_refused(tmp_path, settings, make_model):
    prepare_folder(tmp_path, {**settings, "num_layers": 2})
    with pytest.raises(ValueError, match="`num_layers` is 2 there, 3 is needed"):
        FeatureCache(tmp_path, model=make_model())


def test_a_model_that_reads_fewer_layers_gets_the_last_ones(folder, make_model):
    cache = FeatureCache(folder, model=make_model(num_recurrent_steps=2))
    assert torch.equal(cache.video("v"), video_states()[:, -2:])
    assert torch.equal(cache.query("q", TEXT), text_states()[:, -2:])


def test_another_frame_rate_is_refused(folder):
    with pytest.raises(ValueError, match=r"`fps` is 0\.5 there, 1\.0 is needed"):
        FeatureCache(folder, fps=1)


def test_the_frame_rate_is_ignored_with_one_frame_per_annotated_clip(folder, settings):
    write_json(folder / "settings.json", {**settings, "fps": ONE_PER_UNIT})
    FeatureCache(folder, fps=0.59)


def test_all_differing_settings_are_listed(folder, settings):
    with pytest.raises(ValueError, match=r"`fps` is 0\.5 there.*`num_layers` is 3 there"):
        prepare_folder(folder, {**settings, "fps": 2.0, "num_layers": 4})


def test_the_name_of_clip_is_not_compared(folder, settings):
    prepare_folder(folder, {**settings, "clip": "/elsewhere/the/same"})
    assert FeatureCache(folder).video("v") is not None


@pytest.mark.parametrize(
    ("change", "message"), [({"format": 2}, "`format` is 2 there"), ({"store": "frames"}, '`store` is "frames" there')]
)
def test_other_kinds_of_folders_are_refused(folder, settings, change, message):
    write_json(folder / "settings.json", {**settings, **change})
    with pytest.raises(ValueError, match=message):
        FeatureCache(folder)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_corrupt_settings_are_reported(folder, text):
    (folder / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=r"settings\.json"):
        FeatureCache(folder)


def test_the_fingerprint_does_not_depend_on_the_precision(make_model):
    model = make_model()
    before = fingerprint(model)
    model.vision_model.bfloat16()
    model.text_model.bfloat16()
    assert fingerprint(model) == before


# ---- published caches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("video_id", ["s1", "s1-cam-002", "flat"])
def test_a_published_video_is_read(official, tiny_model, video_id):
    states = FeatureCache(official, model=tiny_model, fps=0.5).video(video_id)
    assert torch.equal(states.half(), video_states())


@pytest.mark.parametrize("qid", ["s1_0", "flat"])
def test_a_published_query_is_read(official, tiny_model, qid):
    assert torch.equal(FeatureCache(official, model=tiny_model).query(qid, "any text"), text_states())


def test_a_published_cache_is_read_without_a_model(official):
    cache = FeatureCache(official)
    assert torch.equal(cache.video("s1"), video_states())
    with pytest.raises(ValueError, match="is flattened: pass `model`"):
        cache.video("flat")


def test_a_published_cache_feeds_the_model(official, tiny_model):
    cache = FeatureCache(official, model=tiny_model)
    outputs = [
        tiny_model(video_hidden_states=video[None], text_hidden_states=cache.query("s1_0", TEXT)[None])
        for video in (cache.video("s1"), cache.video("flat"), video_states().float())
    ]
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert torch.equal(outputs[0].logits, outputs[2].logits)


@pytest.mark.parametrize("name", ["s1", "flat"])
def test_a_published_cache_of_another_k_is_refused(official, make_model, name):
    with pytest.raises(ValueError, match=r"the model needs .* \(any, 2, 5, 64\)"):
        FeatureCache(official, model=make_model(num_recurrent_steps=2)).video(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is corrupt or no features"),
        (b"garbage" * 50, "is corrupt or no features"),
        (np.zeros((2, 3), dtype=np.int64), "is flattened|holds torch.int64"),
        (np.full((2, NUM_LAYERS, NUM_TOKENS, WIDTH), np.inf, dtype=np.float16), "not finite"),
        (np.array([{"a": 1}]), "is corrupt or no features"),
        (np.float32(1), r"the shape \(\)"),
        (b"PK\x03\x04" + bytes(100), "is corrupt or no features"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'shape': (1,".ljust(200), "is corrupt or no features"),
        (
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (-4, 3), }".ljust(128),
            "is corrupt or no features",
        ),
    ],
)
def test_a_published_file_without_features_is_reported(official, tiny_model, content, message):
    path = official / "clip_b32_vid_k4/odd.npy"
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(ValueError, match=rf"odd\.npy.*({message})"):
        FeatureCache(official, model=tiny_model).video("odd")


@pytest.mark.parametrize("name", ["../clip_b32_txt_k4/s1_0", "../../secret", "a/../../../secret", "ABSOLUTE"])
def test_an_id_does_not_lead_out_of_a_published_cache(official, name):
    np.save(official.parent / "secret.npy", video_states().numpy())
    name = str(official.parent / "secret") if name == "ABSOLUTE" else name
    cache = FeatureCache(official)
    for read in (cache.video, lambda qid: cache.query(qid, "any text")):
        with pytest.raises(ValueError, match="The id '.*' leads out of '.*_k4'"):
            read(name)


def test_links_and_folders_inside_a_published_cache_are_followed(official):
    """A folder of links to features elsewhere is a choice of the user."""
    np.save(official.parent / "elsewhere.npy", video_states().numpy())
    (official / "clip_b32_vid_k4/part").mkdir()
    (official / "clip_b32_vid_k4/part/x.npy").symlink_to(official.parent / "elsewhere.npy")
    assert torch.equal(FeatureCache(official).video("part/x"), video_states())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1, "store": "features", "num_layers": "3"}'])
def test_malformed_settings_are_reported(tmp_path, tiny_model, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match='are corrupt|`num_layers` is "3" there, 3 is needed'):
        FeatureCache(tmp_path, model=tiny_model)


def test_a_truncated_published_file_is_reported(official):
    path = official / "clip_b32_vid_k4/s1-cam-002.npy"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"s1-cam-002\.npy"):
        FeatureCache(official).video("s1")


def test_a_missing_published_file_is_reported(official):
    with pytest.raises(FileNotFoundError, match=r"clip_b32_vid_k4/other\.npy"):
        FeatureCache(official).video("other")


def test_two_published_caches_in_one_folder_are_refused(official):
    (official / "clip_l14_vid_k4").mkdir()
    with pytest.raises(ValueError, match=r"'clip_b32_vid_k4', 'clip_l14_vid_k4', 'clip_b32_txt_k4'"):
        FeatureCache(official)


def test_a_folder_without_a_cache_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no feature cache"):
        FeatureCache(tmp_path)
