"""The real annotation files: published counts, documented facts, and equality of the forms, differences listed."""

import logging
from collections import Counter

import pytest

from dataset_scripts import load_vtg_dataset
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
    """What was loaded before, for all tests of this file."""
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


def test_charades_forms_differ_in_the_reversed_lines_alone(load):
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
def test_tacos_forms_are_equal(load, split):
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
    """The authors' folders of the domain dog against `youtube_anno.json`; frame rates are in the videos alone."""

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


@pytest.mark.parametrize("form", ["mat", "tsv"])
def test_tvsum_forms_give_the_same_shots(load, shared_data, tmp_path, form):
    """The tables are not at hand: they are made of the .mat, with its titles and its lengths in whole seconds."""
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


def test_tvsum_titles_are_characters(load):
    """Two stand as bytes of UTF-8 in the .mat; they are in none of the domains of `tvsum_anno.json`."""
    titles = {row["qid"]: row["query"] for split in ("train", "val") for row in load("tvsum", split)[0]}
    assert titles["gzDbaEs1Rlg"] == "\u0160KODA Tips How to Repair Your Tyre"
    assert titles["PJrm840pAUI"] == "Vivencias: Jam Parkour Vi\u00f1a del Mar 2012"
    assert sum(not title.isascii() for title in titles.values()) == 2


def write_tables(folder, target):
    """`ydata-tvsum50-{anno,info}.tsv` with the content of the .mat."""
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
