"""Small annotation files of Soccer-GMR, QV-M2, TVR, VUE-TR, ActivityNet Captions and TimeLens-Bench, by formula.

`write_benchmark(name, folder)` fills a folder as users have it; nothing in the files needs cleaning, unless the release of
the benchmark needs it everywhere (extensions in Soccer-GMR's full labels).
"""

from pathlib import Path

from annotation_samples import write_json, write_json_lines


MOMENTS = ([], [[2.0, 8.0]], [[1.0, 6.0], [4.0, 9.5]])  # absent, one, two that overlap
ACTIONS = ("corner kick", "foul committed")
VUE_CATEGORIES = (("ultra-short", "phrase", "vision"), ("ultra-long", "keyword", "vision+audio"))


def soccer_rows(split, labels="standard", count=6):
    rows = []
    for index in range(count):
        video_id = f"WC2022_{split}_{index // 3}"
        rows.append(
            {
                "qid": index,
                "vid": f"{video_id}.mp4" if labels == "full" else video_id,
                "match_info": {"teams": "A vs B", "date": "2022-11-30"},
                "query": f"Locate action {index} in {split}.",
                "duration": 20,
                "moment": {"type": "clips", "value": MOMENTS[index % 3]},
                "action_type": ACTIONS[index % 2],
                "dataset_source": "worldcup2022",
                "relevant_windows": MOMENTS[index % 3],
            }
        )
    return rows


def write_soccer_gmr(folder):
    for split in ("train", "val", "test"):
        write_json_lines(folder / "Standard" / f"{split}.jsonl", soccer_rows(split))
        write_json_lines(folder / "Full" / f"{split}.jsonl", soccer_rows(split, "full", count=9))


def qv_m2_rows(split):
    """A query of QVHighlights, with scores, and a new one without."""
    scored = {
        "qid": 1,
        "query": f"Someone waves in {split}.",
        "duration": 20,
        "vid": "a_b_0.0_20.0",
        "relevant_clip_ids": [1, 2],
        "saliency_scores": [[1, 2, 3], [4, 4, 4]],
        "relevant_windows": [[2, 6]],
    }
    new = {
        "qid": 2,
        "query": f"Someone dances in {split}.",
        "duration": 20,
        "vid": "a_b_0.0_20.0",
        "relevant_clip_ids": [0, 4, 5],
        "relevant_windows": [[0.0, 2.0], [8.0, 12.0]],
    }
    return [new] if split == "test" else [scored, new]


def write_qv_m2(folder):
    for split in ("train", "val", "test"):
        write_json_lines(folder / f"{split}.jsonl", qv_m2_rows(split))


def tvr_rows(split):
    types = ("v", "t", "vt")
    rows = []
    for index in range(6):
        row = {"desc": f"Ross opens door {index} in {split}.", "desc_id": 100 + index}
        if split != "test_public":
            row |= {"vid_name": f"friends_{split}_{index // 3}", "duration": 61.5, "ts": [index, index + 8.5]}
            row["type"] = types[index % 3]
        rows.append(row)
    return rows


def write_tvr(folder):
    for split in ("train", "val", "test_public"):
        write_json_lines(folder / f"tvr_{split}_release.jsonl", tvr_rows(split))


def vue_rows():
    rows = []
    for index, (length, form, modality) in enumerate(VUE_CATEGORIES):
        rows.append(
            {
                "query_id": index,
                "video_id": f"-video_{index}",
                "duration": (40.5, 5000.25)[index],
                "query": f"scene {index}",
                "gt": [[0, 32], [35, 40.5]][: index + 1],
                "task": "temporal_retrieval",
                "duration_category": length,
                "query_format": form,
                "query_modality": modality,
            }
        )
    return rows


def write_vue_tr(folder):
    write_json(folder / "VUE-TR_ground_truth.json", vue_rows())


def captions(split):
    """The videos of val and test are the same, described by two annotators."""
    videos = {}
    for video in range(2):
        videos[f"v_{'train' if split == 'train' else 'val'}-{video}"] = {
            "duration": 30.5 + video,
            "timestamps": [[0, 10.25], [8.5, 30.5]],
            "sentences": [f"Person {video} runs in {split}.", f"Person {video} jumps in {split}."],
        }
    return videos


def write_activitynet_captions(folder, form="2dtan"):
    for split in ("train", "val", "test"):
        videos = captions(split)
        if form == "2dtan":
            write_json(folder / f"{split}.json", videos)
            continue
        rows = []
        for video_id, video in videos.items():
            for windows, query in zip(video["timestamps"], video["sentences"], strict=True):
                row = {"qid": len(rows), "query": query, "duration": video["duration"], "vid": video_id}
                rows.append({**row, "relevant_windows": [windows]})
        write_json_lines(folder / f"activitynet_{split}_release.jsonl", rows)


def timelens(source):
    return {
        f"{source}-{video}": {
            "duration": 20.0 + video,
            "spans": [[1.5, 9.0], [4, 20]],
            "queries": [f"person {video} of {source} sits down", f"person {video} of {source} stands up"],
        }
        for video in range(2)
    }


def write_timelens_bench(folder, sources=("charades", "activitynet", "qvhighlights")):
    for source in sources:
        write_json(folder / f"{source}-timelens.json", timelens(source))


WRITERS = {
    "soccer_gmr": write_soccer_gmr,
    "qv_m2": write_qv_m2,
    "tvr": write_tvr,
    "vue_tr": write_vue_tr,
    "activitynet_captions": write_activitynet_captions,
    "timelens_bench": write_timelens_bench,
}
SPLITS = {
    "soccer_gmr": ("train", "val", "test"),
    "qv_m2": ("train", "val", "test"),
    "tvr": ("train", "val", "test"),
    "vue_tr": ("test",),
    "activitynet_captions": ("train", "val", "test"),
    "timelens_bench": ("test",),
}


def write_benchmark(name, folder, **options):
    """Write all splits of a benchmark; returns the folder."""
    WRITERS[name](Path(folder), **options)
    return Path(folder)
