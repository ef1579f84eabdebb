"""The real annotation files: published counts, documented facts, and equality of the forms, differences listed."""

import logging
from collections import Counter

import pytest

from dataset_scripts import load_vtg_dataset
from dataset_scripts.activitynet_captions import read_captions
from dataset_scripts.cleaning import Report
from dataset_scripts.loading import find_builder
from dataset_scripts.moment_lines import read_moment_lines
from dataset_scripts.splits import TVSUM
from dataset_scripts.videos import VideoFacts
from dataset_scripts.youtube_highlights import read_folder


LIGHTHOUSE_DROPS = {  # query id: duration, and what is left of the reversed window
    "8251": (6.25, [5.25, 6.25]),  # LEOL6 8.0 7.0
    "8439": (30.38, [12.0, 20.9]),  # IOL8Q 20.9 12.0
    "9622": (12.17, [11.17, 12.17]),  # AKKWU 38.0 13.0
    "9623": (12.17, [11.17, 12.17]),
}


@pytest.fixture(scope="module")
def loaded():
    """Cache of loaded datasets for all tests of this file."""
    return {}


@pytest.fixture
def load(shared_data, loaded, caplog):
    """Load from a folder of the shared data, or one file in it; returns the dataset and its summary."""
    caplog.set_level(logging.INFO)

    def load_shared(name, split, folder=None, file=None, **options):
        key = (name, split, folder, file, *options.values())
        if key not in loaded:
            place = shared_data / (folder or name)
            place = {"data_dir": place} if file is None else {"data_files": place / file}
            loaded[key] = load_vtg_dataset(name, split=split, **place, **options), caplog.messages[-1]
        return loaded[key]

    return load_shared


# ---- QVHighlights ----


@pytest.mark.parametrize(
    ("split", "queries", "videos", "moments"),
    [("train", 7218, 7100, 12803), ("val", 1550, 1519, 2803), ("test", 1542, 1529, 0)],
)
def test_qvhighlights_counts(load, split, queries, videos, moments):
    dataset, summary = load("qvhighlights", split)
    assert len(dataset) == len(set(dataset["qid"])) == queries
    assert len(set(dataset["video_id"])) == videos
    assert sum(len(row or []) for row in dataset["moments"]) == moments
    assert summary.endswith((".jsonl", ".jsonl.gz"))  # nothing to clean, nothing to note


def test_qvhighlights_videos_are_in_one_split(load):
    videos = [set(load("qvhighlights", split)[0]["video_id"]) for split in ("train", "val", "test")]
    assert len(set.union(*videos)) == sum(map(len, videos)) == 10148


@pytest.mark.parametrize(("split", "never_very_good"), [("train", 140), ("val", 35)])
def test_qvhighlights_facts(load, split, never_very_good):
    dataset, _ = load("qvhighlights", split)
    without = 0
    for row in dataset:
        assert 120 <= row["duration_sec"] <= 150
        assert row["duration_sec"] % 2 == 0
        scores = row["saliency"]["scores"]
        assert len(scores) == len(row["saliency"]["times_sec"]) == row["duration_sec"] / 2
        without += not any(4 in clip for clip in scores)
        inside = {clip for start, end in row["moments"] for clip in range(int(start) // 2, int(end) // 2)}
        assert all(clip in inside or score == [0, 0, 0] for clip, score in enumerate(scores))
    assert without == never_very_good
    assert max(len(moments) for moments in dataset["moments"]) <= 25
    if split == "val":
        assert sum(len(moments) > 1 for moments in dataset["moments"]) == 530


def test_qvhighlights_test_is_hidden(load):
    dataset, _ = load("qvhighlights", "test")
    assert set(map(repr, dataset["moments"])) == set(map(repr, dataset["saliency"])) == {"None"}


# ---- Charades-STA ----


def test_charades_release(load):
    dataset, summary = load("charades_sta", "train")
    assert len(dataset) == 12408
    assert len(set(dataset["video_id"])) == 5338
    assert dataset["qid"][:] == [str(number) for number in range(12408)]
    assert summary.split("; ")[1:] == [
        "4 moments with end before start swapped",
        "1,805 ends cut to the duration",
        "3 starts after the video cut to the duration",
        "3 moments shorter than 1 s widened",
    ]


def test_charades_lines(load):
    dataset, summary = load("charades_sta", "train", file="charades_train.jsonl.gz")
    assert len(dataset) == 12404
    assert summary.endswith(".jsonl.gz")


def test_charades_formats_differ_only_in_the_reversed_lines(load):
    release, lines = load("charades_sta", "train")[0], load("charades_sta", "train", file="charades_train.jsonl.gz")[0]
    dropped = {
        row["qid"]: (row["duration_sec"], row["moments"][0]) for row in release if row["qid"] in LIGHTHOUSE_DROPS
    }
    assert dropped == LIGHTHOUSE_DROPS
    kept = [row for row in release if row["qid"] not in LIGHTHOUSE_DROPS]
    for row, other in zip(kept, lines, strict=True):
        assert int(row.pop("qid")) - int(other.pop("qid")) in range(5)  # numbered without the dropped ones
        assert row == other


# ---- TACoS ----


@pytest.mark.parametrize(
    ("split", "pairs", "videos", "repeated_pairs", "repeats", "longest"),
    [("train", 9790, 75, 1703, 1201, 46), ("val", 4436, 27, 792, 516, 64)],
)
def test_tacos(load, split, pairs, videos, repeated_pairs, repeats, longest):
    release, summary = load("tacos", split)
    assert len(release) == len(set(release["qid"])) == pairs
    assert len(set(release["video_id"])) == videos
    assert (
        pairs - len(set(zip(release["video_id"], release["query"], strict=True))) >= repeated_pairs
    )  # some by blanks
    assert f"{repeats:,} examples say the same as an earlier one" in summary
    assert ("43 ends cut to the duration" in summary) == (split == "train")
    assert max(len(query.split()) for query in release["query"]) == longest


@pytest.mark.parametrize("split", ["train", "val"])
def test_tacos_formats_are_equal(load, split):
    assert list(load("tacos", split)[0]) == list(load("tacos", split, file=f"{split}.jsonl.gz")[0])


# ---- YouTube Highlights ----


def test_youtube_highlights(load, shared_data):
    sizes = {}
    for split in ("train", "val"):
        dataset, summary = load("youtube_highlights", split)
        assert "22 annotated videos are in no split" in summary
        sizes[split] = Counter(dataset["domain"])
        assert all({score for [score] in row["scores"]} <= {-1, 0, 1} for row in dataset["saliency"])
        if split == "val":
            assert all(any(score > 0 for [score] in row["scores"]) for row in dataset["saliency"])
    # 419 listed videos less those of parkour and surfing, which are not in the shared file, and 18 without annotation
    assert sizes["train"].total() + sizes["val"].total() == 419 - 32 - 103 - 18
    lengths = [len(row["scores"]) for split in sizes for row in load("youtube_highlights", split)[0]["saliency"]]
    assert (min(lengths), max(lengths)) == (4, 741)
    assert sizes["val"] == {
        domain: len(load("youtube_highlights", "val", domain=domain)[0])
        for domain in ("dog", "gymnastics", "skating", "skiing")
    }


def test_youtube_folders_have_the_labels_of_the_file(load, shared_data):
    """The authors' folders of the domain dog against `youtube_anno.json`; only the videos hold frame rates."""

    class AnyVideo:
        def facts(self, video_id):
            return VideoFacts(10.0, 25.0, 250)

    rows = [row for split in ("train", "val") for row in load("youtube_highlights", split, domain="dog")[0]]
    assert len(rows) == 57
    for row in rows:
        folder = shared_data / "youtube_highlights" / "official" / "dog" / row["video_id"]
        record = read_folder(str(folder), "dog", row["video_id"], AnyVideo())
        assert [[float(label)] for label in record.fields["match"]] == row["saliency"]["scores"]
        assert (record.fields["info"][5].strip() or "dog") == row["query"]
        assert len(record.fields["clip"]) == len(row["saliency"]["times_sec"])


# ---- TVSum ----


def test_tvsum_release(load):
    sizes = {}
    for split in ("train", "val"):
        dataset, _ = load("tvsum", split)
        sizes[split] = Counter(dataset["domain"])
        for row in dataset:
            assert len(row["saliency"]["scores"]) == int(row["duration_sec"] / 2)
            assert {len(scores) for scores in row["saliency"]["scores"]} == {20}
    assert set(sizes["train"].values()) == {4}
    assert set(sizes["val"].values()) == {1}
    assert sizes["train"].keys() == sizes["val"].keys() == set(TVSUM)


@pytest.mark.parametrize("form", ["mat", pytest.param("tsv", marks=pytest.mark.integration)])
def test_tvsum_formats_give_the_same_shots(load, shared_data, tmp_path, form):
    """The tables are not available: they are made from the .mat, with its titles and with lengths in whole seconds."""
    folder = shared_data / "tvsum" if form == "mat" else write_tables(shared_data / "tvsum", tmp_path)
    differing = {}
    for split in ("train", "val"):
        release = load_vtg_dataset("tvsum", split=split, data_dir=folder)
        release = {row["qid"]: row for row in release}
        for row in load("tvsum", split, file="tvsum_anno.json")[0]:
            other = release[row["qid"]]
            difference = row.pop("duration_sec") - other.pop("duration_sec")
            assert row == other
            if abs(difference) > 1e-6:
                differing[row["qid"]] = round(difference, 3)
    # the first two have a frame less in the .mat; the rate of the third is no usual one
    assert differing.pop("WG0MBPpPC6I") == 0.042
    assert differing.pop("Se3oxnaPsz0") == 0.033
    assert set(differing) == {"fWutDQy1nnY"}
    assert abs(differing["fWutDQy1nnY"]) < 0.01


def test_tvsum_titles_are_decoded(load):
    """Two are stored as bytes of UTF-8 in the .mat; `tvsum_anno.json` lacks them."""
    titles = {row["qid"]: row["query"] for split in ("train", "val") for row in load("tvsum", split)[0]}
    assert titles["gzDbaEs1Rlg"] == "\u0160KODA Tips How to Repair Your Tyre"
    assert titles["PJrm840pAUI"] == "Vivencias: Jam Parkour Vi\u00f1a del Mar 2012"
    assert sum(not title.isascii() for title in titles.values()) == 2


def write_tables(folder, target):
    """`ydata-tvsum50-{anno,info}.tsv` with the contents of the .mat."""
    h5py = pytest.importorskip("h5py")
    info, anno = ["category\tvideo_id\ttitle\turl\tlength"], []
    with h5py.File(folder / "ydata-tvsum50.mat") as file:
        for number in range(50):
            row = {name: file[column[number, 0]][()] for name, column in file["tvsum50"].items()}
            domain, video_id, title = ("".join(map(chr, row[name].ravel())) for name in ("category", "video", "title"))
            minutes, seconds = divmod(int(row["length"].item()), 60)
            info.append(f"{domain}\t{video_id}\t{title}\thttps://example.org\t{minutes}:{seconds:02d}")
            for scores in row["user_anno"]:
                anno.append(f"{video_id}\t{domain}\t{','.join(str(int(score)) for score in scores)}")
    (target / "ydata-tvsum50-info.tsv").write_text("\n".join(info))
    (target / "ydata-tvsum50-anno.tsv").write_text("\n".join(anno))
    return target


# ---- benchmarks with absent queries, several moments, or a corpus ----


@pytest.mark.parametrize(
    ("labels", "split", "queries", "absent", "one", "moments", "videos", "actions", "repeats"),
    [
        ("standard", "train", 4138, 2002, 1423, 3038, 1369, 20, 24),
        ("standard", "val", 465, 210, 165, 365, 127, 18, 5),
        ("full", "val", 2235, 1109, 733, 1648, 564, 29, 1),  # 618 names of videos, before extensions are removed
    ],
)
def test_soccer_gmr(load, labels, split, queries, absent, one, moments, videos, actions, repeats):
    dataset, summary = load("soccer_gmr", split, domain=labels)
    sizes = Counter(map(len, dataset["moments"]))
    assert (len(dataset), len(set(dataset["qid"])), sizes[0], sizes[1]) == (queries, queries, absent, one)
    assert sum(map(len, dataset["moments"])) == moments
    assert max(sizes) == (4 if (labels, split) == ("standard", "val") else 6)
    assert (len(set(dataset["video_id"])), len(set(dataset["domain"]))) == (videos, actions)
    assert f"{repeats} examples say the same as an earlier one; {absent:,} examples have no moment" in summary
    assert (
        ("2,159 file extensions removed" in summary) == ("1 lists of moments sorted" in summary) == (labels == "full")
    )


def test_standard_videos_of_soccer_gmr_are_full_ones(load):
    standard, _ = load("soccer_gmr", "val", domain="standard")
    full, _ = load("soccer_gmr", "val", domain="full")
    assert set(standard["video_id"]) < set(full["video_id"])


def test_qv_m2(load):
    dataset, summary = load("qv_m2", "val")
    sizes = Counter(map(len, dataset["moments"]))
    assert (len(dataset), len(set(dataset["video_id"])), sizes[1], sizes[2]) == (1779, 1546, 1082, 322)
    assert sum(map(len, dataset["moments"])) == 3516
    assert summary.endswith("val.jsonl.gz")  # nothing to clean
    known = {row["qid"]: row for row in load("qvhighlights", "val")[0]}
    new = [row for row in dataset if row["qid"] not in known]
    assert len(new) == 229
    assert all(row["saliency"] is None and row["task"] == ["moment_retrieval"] for row in new)
    assert [row for row in dataset if row["saliency"] is not None] == [
        known[qid] for qid in dataset["qid"] if qid in known
    ]


def test_tvr(load):
    dataset, summary = load("tvr", "val")
    assert (len(dataset), len(set(dataset["qid"])), len(set(dataset["video_id"]))) == (10895, 10895, 2179)
    assert Counter(dataset["domain"]) == {"v": 8097, "t": 964, "vt": 1834}
    assert set(Counter(dataset["video_id"]).values()) == {5}
    assert summary.split("; ")[1:] == [
        "1,469 queries stripped of whitespace",
        "16 examples say the same as an earlier one",
    ]
    hidden, _ = load("tvr", "test")
    assert len(hidden) == 5445
    for column in ("video_id", "duration_sec", "moments", "domain"):
        assert set(hidden[column]) == {None}


def test_vue_tr(load):
    dataset, summary = load("vue_tr", "test")
    assert (len(dataset), len(set(dataset["video_id"]))) == (1598, 424)
    assert dataset["qid"][:] == list(map(str, range(1598)))
    assert Counter(map(len, dataset["moments"]))[1] == 1140
    assert sum(map(len, dataset["moments"])) == 2984
    lengths, forms, modalities = Counter(), Counter(), Counter()
    for domain in dataset["domain"]:
        length, form, modality = domain.split("/")
        lengths[length] += 1
        forms[form] += 1
        modalities[modality] += 1
    assert lengths == {"ultra-short": 183, "short": 439, "medium": 427, "long": 396, "ultra-long": 153}
    assert forms == {"keyword": 496, "phrase": 513, "sentence": 589}
    assert modalities == {"vision": 562, "audio": 288, "vision+audio": 748}
    assert (min(dataset["duration_sec"]), max(dataset["duration_sec"])) == (29.304, 5084.892)
    assert summary.endswith("VUE-TR_ground_truth.json.gz")  # nothing to clean


def test_activitynet_captions(shared_data, tmp_path, caplog):
    """The examples are taken from the builder, since writing 37,358 of them to a dataset takes seconds."""
    folder = shared_data / "activitynet_captions"
    builder = find_builder("activitynet_captions")(cache_dir=tmp_path, data_dir=str(folder), split="train")
    rows = [example for _, example in builder._generate_examples("train", folder / "train.json.gz")]
    assert (len(rows), len({row["video_id"] for row in rows})) == (37421 - 63, 10009 - 22)  # without those below 5 s
    assert caplog.messages[-1].split("; ")[1:] == [
        "25,731 queries stripped of whitespace",
        "63 examples of videos below 5 s dropped",
        "2 moments with end before start swapped",
        "261 ends cut to the duration",
        "1,451 moments shorter than 2 s widened",
    ]
    assert max(row["duration_sec"] for row in rows) == 755.11


def test_activitynet_captions_forms_hold_the_same_sentences(shared_data):
    """Before cleaning: the lines have fewer ends after the duration, as their numbers are rounded."""
    folder, report = shared_data / "activitynet_captions", Report("x")
    release = [example for _, example in read_captions(folder / "val.json.gz", report)]
    lines = [example for _, example in read_moment_lines(folder / "activitynet_val_release.jsonl.gz", "val", report)]
    assert len(release) == len({row["qid"] for row in release}) == 17505
    assert len({row["video_id"] for row in release}) == 4917
    assert max(len(row["query"].split()) for row in release) == 82
    assert [row.pop("qid") for row in lines] == list(map(str, range(37421, 37421 + 17505)))
    for row, other in zip(release, lines, strict=True):
        [[start, end]], [[other_start, other_end]] = row["moments"], other["moments"]
        numbers, others = (row["duration_sec"], start, end), (other["duration_sec"], other_start, other_end)
        assert numbers == pytest.approx(others, abs=0.011)
        assert (row["query"], row["video_id"]) == (other["query"], other["video_id"])
    assert sum(row["moments"][0][1] > row["duration_sec"] for row in release) == 134
    assert sum(row["moments"][0][1] > row["duration_sec"] for row in lines) == 5


# ---- Ego4D-NLQ (made up, in the shape of the official files) ----


@pytest.mark.parametrize(("split", "queries", "zero_lengths"), [("train", 26, 0), ("val", 14, 4), ("test", 5, 0)])
def test_ego4d_shape(load, split, queries, zero_lengths):
    dataset, summary = load("ego4d_nlq", split, "ego4d_nlq_synthetic")
    assert len(dataset) == len(set(dataset["qid"])) == queries
    assert set(dataset["duration_sec"]) == {480.0}
    assert "1 entries without a query left out; 1 queries stripped of whitespace" in summary
    if split == "test":
        assert dataset["moments"][:] == [None] * queries
    else:
        assert sum(start == end for [[start, end]] in dataset["moments"]) == zero_lengths
        assert "1 ends cut to the duration" in summary
        assert all(end - start > 2 - 1e-9 for [[start, end]] in dataset["moments"]) == (split == "train")
