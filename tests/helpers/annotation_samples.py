"""Writers of small annotation files of every benchmark in every form, and of videos that fit them.

`write_benchmark(name, folder)` fills a folder as users have it; `FORMS[name]` lists the formats, the authors' own first,
except where that one requires videos. All formats of a benchmark describe the same queries, and nothing in them needs
cleaning. The records follow a formula: the same call always writes the same bytes.
"""

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import video_samples


FORMS = {
    "qvhighlights": ("release", "r2tuning"),
    "charades_sta": ("txt", "jsonl"),
    "ego4d_nlq": ("v1", "v2", "jsonl"),
    "tacos": ("2dtan", "jsonl"),
    "youtube_highlights": ("anno", "folders", "lines"),
    "tvsum": ("mat", "tsv", "anno", "lines"),
}
SPLITS = {
    "qvhighlights": ("train", "val", "test"),
    "charades_sta": ("train", "test"),
    "ego4d_nlq": ("train", "val", "test"),
    "tacos": ("train", "val", "test"),
    "youtube_highlights": ("train", "val"),
    "tvsum": ("train", "val"),
}
VIDEO_SUFFIX = {"tacos": "-cam-002"}
QUERIES_PER_SPLIT = {"train": 6, "val": 4, "test": 3}
QUERIES_PER_VIDEO = 2
VIDEO_FPS = 25  # of the videos that `write_videos` makes
YOUTUBE_CLIP_FRAMES, YOUTUBE_STEP_FRAMES = 50, 25
NUM_ANNOTATORS = {"qvhighlights": 3, "tvsum": 20}


# ---- files ----


def write_text(path, text, compress=False):
    """Write UTF-8 text, as `{path}.gz` if `compress`; returns the path of the file."""
    path = Path(f"{path}.gz" if compress else path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if compress else data)
    return path


def write_json_lines(path, rows, compress=False):
    """One JSON object a line, without a newline after the last one, as the releases are."""
    return write_text(path, "\n".join(json.dumps(row) for row in rows), compress)


def write_json(path, document, compress=False):
    return write_text(path, json.dumps(document), compress)


# ---- the moment benchmarks: records in the common form ----


def moment_records(name, split, count=None):
    """Rows `{"qid", "query", "duration", "vid", "relevant_windows"}` (QVHighlights: and the scores) of a split."""
    make = {"qvhighlights": _qvhighlights_row, "ego4d_nlq": _ego4d_row}.get(name, _plain_row)
    return [make(name, split, index) for index in range(QUERIES_PER_SPLIT[split] if count is None else count)]


def _qvhighlights_row(name, split, index):
    duration = 16 + 2 * (index % 3)
    windows = [[2, 6], [8, 8 + 2 * (index % 4 + 1)]][index % 2 :]
    clips = [clip for start, end in windows for clip in range(start // 2, end // 2)]
    return {
        "qid": 100 * SPLITS[name].index(split) + index,
        "query": f"Somebody waves {index} times in {split}.",
        "duration": duration,
        "vid": f"{split}_Vid-{index}_60.0_{60 + duration}.0",
        "relevant_clip_ids": clips,
        "saliency_scores": [[clip % 5, index % 5, (clip + index) % 5] for clip in clips],
        "relevant_windows": windows,
    }


def _plain_row(name, split, index):
    """A query with one window; the times of TACoS are whole frames at 29.4 a second, as in its release."""
    video = index // QUERIES_PER_VIDEO
    if name == "tacos":
        video_id, qid = f"s{10 + video}-{split}", f"s{10 + video}-{split}_{index % QUERIES_PER_VIDEO}"
        duration, window = (300 + 30 * video) / 29.4, [(30 + 9 * index) / 29.4, (200 + 9 * index) / 29.4]
    else:
        video_id, qid = f"{split[:3].upper()}{video:02d}", index
        duration, window = 10.5 + video, [0.5 + index, 6.25 + index / 2]
    query = f"a person opens door {index} in {split}."
    return {"qid": qid, "query": query, "duration": duration, "vid": video_id, "relevant_windows": [window]}


def _ego4d_row(name, split, index):
    clip, annotation = _ego4d_uids(split, index)
    return {
        "qid": f"{clip}_{annotation}_{index % QUERIES_PER_VIDEO}",
        "query": f"Where did I put cup {index} in {split}?",
        "duration": 12.0,
        "vid": clip,
        "relevant_windows": [[1.5 + index / 2, 7.25 + index / 2]],
    }


def _ego4d_uids(split, index):
    number = 100 * SPLITS["ego4d_nlq"].index(split) + index // QUERIES_PER_VIDEO
    return f"00000000-0000-4000-8000-{number:012d}", f"ffffffff-0000-4000-8000-{number:012d}"


def without_ground_truth(rows):
    hidden = {"relevant_windows", "relevant_clip_ids", "saliency_scores"}
    return [{key: value for key, value in row.items() if key not in hidden} for row in rows]


# ---- one writer per benchmark ----


def write_qvhighlights(folder, form="release", splits=SPLITS["qvhighlights"], test="plain", compress=False):
    """QVHighlights; `test` is "plain" (no ground truth), "annotated", or "both" (two files side by side)."""
    for split in splits:
        rows = moment_records("qvhighlights", split)
        name = f"highlight_{split}_release.jsonl" if form == "release" else f"qvhighlights_{split}.jsonl"
        if split == "test" and test == "both":
            write_json_lines(Path(folder) / "highlight_test_with_gt.jsonl", rows, compress)
        if split == "test" and test != "annotated":
            rows = without_ground_truth(rows)
        write_json_lines(Path(folder) / name, rows, compress)
    return Path(folder)


def write_charades_sta(folder, form="txt", splits=SPLITS["charades_sta"], durations=True, compress=False):
    """Charades-STA; in the form "txt", `durations` says whether to write the tables of Charades too."""
    for split in splits:
        rows = moment_records("charades_sta", split)
        if form == "jsonl":
            write_json_lines(Path(folder) / f"charades_{split}.jsonl", rows, compress)
            continue
        lines = ["{} {} {}##{}".format(row["vid"], *row["relevant_windows"][0], row["query"]) for row in rows]
        write_text(Path(folder) / f"charades_sta_{split}.txt", "\n".join(lines) + "\n", compress)
        if durations:
            write_charades_table(Path(folder) / f"Charades_v1_{split}.csv", rows, compress)
    return Path(folder)


def write_charades_table(path, rows, compress=False):
    """The table of Charades: commas, quotes and a line break inside quoted fields, a byte order mark, `\\r\\n`."""
    durations = {row["vid"]: row["duration"] for row in rows}
    lines = [f'{video},"a, ""quoted""; text\nof two lines",c1 0 1,{length}' for video, length in durations.items()]
    return write_text(path, "\ufeff" + "\r\n".join(["id,script,actions,length", *lines]) + "\r\n", compress)


def write_ego4d_nlq(folder, form="v1", splits=SPLITS["ego4d_nlq"], compress=False):
    """Ego4D-NLQ; the files of form "v2" carry labels in front of the texts and an answer."""
    for split in splits:
        rows = moment_records("ego4d_nlq", split)
        if form == "jsonl":
            rows = without_ground_truth(rows) if split == "test" else rows
            write_json_lines(Path(folder) / f"nlq_{split}.jsonl", rows, compress)
        else:
            name = "nlq_test_unannotated.json" if split == "test" else f"nlq_{split}.json"
            write_json(Path(folder) / name, _ego4d_document(split, rows, form), compress)
    return Path(folder)


def _ego4d_document(split, rows, form):
    videos = []
    for start in range(0, len(rows), QUERIES_PER_VIDEO):
        clip, annotation = _ego4d_uids(split, start)
        queries = [_ego4d_query(row, split, form) for row in rows[start : start + QUERIES_PER_VIDEO]]
        times = {"video_start_sec": 100.0, "video_end_sec": 112.0, "clip_start_sec": 0, "clip_end_sec": 12.0}
        annotations = [{"annotation_uid": annotation, "language_queries": queries}]
        clips = [{"clip_uid": clip, **times, "source_clip_uid": clip, "annotations": annotations}]
        videos.append({"video_uid": f"video-{start}", "split": split, "clips": clips})
    return {"version": form, "date": "000000", "description": "NLQ Annotations", "manifest": "", "videos": videos}


def _ego4d_query(row, split, form):
    [[start, end]] = row["relevant_windows"]
    times = {"clip_start_sec": start, "clip_end_sec": end, "video_start_sec": 100 + start, "video_end_sec": 100 + end}
    query = {} if split == "test" else times
    if form == "v1":
        return {**query, "template": "Objects: Where is X?", "query": row["query"], "slot_x": "cup"}
    labelled = {"query": f"Query Text:{row['query']}", "slot_x": "X Text (Optional):cup"}
    return {**query, "template": "Objects: Where is X?", **labelled, "answer": "Answer (Optional):shelf"}


def write_tacos(folder, form="2dtan", splits=SPLITS["tacos"], compress=False):
    for split in splits:
        rows = moment_records("tacos", split)
        if form == "jsonl":
            write_json_lines(Path(folder) / f"{split}.jsonl", rows, compress)
            continue
        document = {}
        for row in rows:
            video = {"timestamps": [], "sentences": [], "fps": 29.4, "num_frames": round(row["duration"] * 29.4)}
            video = document.setdefault(f"{row['vid']}.avi", video)
            video["timestamps"].append([round(time * 29.4) for time in row["relevant_windows"][0]])
            video["sentences"].append(row["query"])
        write_json(Path(folder) / f"{split}.json", document, compress)
    return Path(folder)


# ---- the highlight benchmarks ----


def youtube_annotations():
    """`youtube_anno.json` of two videos in each of the domains dog and surfing, the first of each in train."""
    return {
        f"{domain}-clip{index}": _youtube_video(domain, index) for domain in ("dog", "surfing") for index in (0, 1)
    }


def _youtube_video(domain, index):
    frames = 200 + 50 * index
    starts = range(0, frames - YOUTUBE_STEP_FRAMES, YOUTUBE_STEP_FRAMES)
    clips = [[float(start), float(start + YOUTUBE_CLIP_FRAMES)] for start in starts]
    return {
        "fps": float(VIDEO_FPS),
        "frames": str(frames),
        "domain": domain,
        "info": [domain, None, [], 8, "channel", f"A {domain} film, part {index}", "description", None],
        "clip": clips,
        "match": [(index + number) % 3 - 1 for number in range(len(clips))],
    }


def youtube_line(video_id, video):
    """lighthouse's record of a video; there `query` is the domain, here the title, as in the other forms."""
    frames = float(video["frames"])
    return {
        "qid": video_id,
        "query": video["info"][5],
        "duration": frames / video["fps"],
        "vid": video_id,
        "relevant_clip_ids": None,
        "relevant_windows": None,
        "label": [[int(match > 0)] for match in video["match"]],
        "domain": video["domain"],
        "frames": frames,
        "fps": video["fps"],
        "clip": video["clip"],
        "match": video["match"],
    }


def write_youtube_highlights(folder, form="anno", compress=False):
    """YouTube Highlights with its own `splits.json`: "folders" is the authors' release, "lines" lighthouse's form."""
    folder, videos = Path(folder), youtube_annotations()
    splits = {domain: {"train": [f"{domain}-clip0"], "val": [f"{domain}-clip1"]} for domain in ("dog", "surfing")}
    write_json(folder / "splits.json", splits)
    if form == "anno":
        write_json(folder / "youtube_anno.json", videos, compress)
        return folder
    if form == "lines":
        for index, split in enumerate(SPLITS["youtube_highlights"]):
            rows = [
                youtube_line(video_id, video) for video_id, video in videos.items() if video_id.endswith(f"{index}")
            ]
            write_json_lines(folder / f"youtube_highlight_{split}_release.jsonl", rows, compress)
        return folder
    for video_id, video in videos.items():
        place = folder / video["domain"] / video_id
        write_json(place / "clip.json", video["clip"])
        write_json(place / "match_label.json", [video["clip"], video["match"]])
        write_json(place / "info.json", video["info"])
    return folder


def tvsum_annotations():
    """`tvsum_anno.json` of two videos in each of the domains BK and VU, the first of each in train."""
    return {f"{domain}_video-{index}": _tvsum_video(domain, index) for domain in ("BK", "VU") for index in (0, 1)}


def _tvsum_video(domain, index):
    duration, video_id = 9 + 4 * index, f"{domain}_video-{index}"
    shots = [[float((shot * (rater + 1) + index) % 5 + 1) for rater in range(20)] for shot in range(duration // 2)]
    return {
        "fps": float(VIDEO_FPS),
        "frames": str(duration * VIDEO_FPS),
        "domain": domain,
        "title": f"Title of {domain}, part {index}",
        "url": f"https://example.org/{video_id}",
        "length": f"0:{duration:02d}",
        "anno": shots,
    }


def tvsum_line(video_id, video):
    """lighthouse's record of a video."""
    return {
        "qid": video_id,
        "query": video["title"],
        "duration": int(video["frames"]) / video["fps"],
        "vid": video_id,
        "relevant_clip_ids": None,
        "relevant_windows": None,
        "label": video["anno"],
        "domain": video["domain"],
    }


def tvsum_frame_scores(video):
    """Scores for each frame, shape (20, frames): those of the shot it lies in, the rest of the video as the last shot."""
    shot_of_frame = np.ceil(np.arange(int(video["frames"])) / (2 * video["fps"])).astype(int) - 1
    return np.array(video["anno"]).T[:, np.clip(shot_of_frame, 0, len(video["anno"]) - 1)]


def write_tvsum(folder, form="anno", compress=False):
    """TVSum with its own `splits.json`: "mat" is the MATLAB v7.3 file, "tsv" the tables, "lines" lighthouse's form."""
    folder, videos = Path(folder), tvsum_annotations()
    splits = {domain: {"train": [f"{domain}_video-0"], "val": [f"{domain}_video-1"]} for domain in ("BK", "VU")}
    write_json(folder / "splits.json", splits)
    if form == "anno":
        write_json(folder / "tvsum_anno.json", videos, compress)
    elif form == "mat":
        write_tvsum_mat(folder / "ydata-tvsum50.mat", videos)
    elif form == "lines":
        for index, split in enumerate(SPLITS["tvsum"]):
            rows = [tvsum_line(video_id, video) for video_id, video in videos.items() if video_id.endswith(f"{index}")]
            write_json_lines(folder / f"tvsum_{split}_release.jsonl", rows, compress)
    else:
        write_tvsum_tables(folder, videos, compress)
    return folder


def write_tvsum_mat(path, videos):
    """A file laid out as MATLAB does: 512 bytes of text first, every field a column of references, texts as codes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        group, hidden = file.create_group("tvsum50"), file.create_group("#refs#")
        columns = {name: [] for name in ("video", "category", "title", "length", "nframes", "user_anno", "gt_score")}
        for video_id, video in videos.items():
            scores, frames = tvsum_frame_scores(video), float(video["frames"])
            texts = {"video": video_id, "category": video["domain"], "title": video["title"]}
            values = {key: np.array([[ord(letter)] for letter in text], np.uint16) for key, text in texts.items()}
            values |= {"length": [[frames / video["fps"] + 0.012]], "nframes": [[frames]]}
            values |= {"user_anno": scores, "gt_score": scores.mean(axis=0, keepdims=True)}
            for key, value in values.items():
                columns[key].append(hidden.create_dataset(f"{key}{len(columns[key])}", data=value).ref)
        for key, references in columns.items():
            shape = (len(references), 1)
            group.create_dataset(key, data=np.array(references, h5py.ref_dtype).reshape(shape), dtype=h5py.ref_dtype)
    header = b"MATLAB 7.3 MAT-file, Platform: TEST"
    with open(path, "r+b") as file:
        file.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")
    return path


def write_tvsum_tables(folder, videos, compress=False):
    """`ydata-tvsum50-info.tsv` (titles quoted) and `ydata-tvsum50-anno.tsv` (a line for each video and annotator)."""
    info = ["category\tvideo_id\ttitle\turl\tlength"]
    scores = []
    for video_id, video in videos.items():
        info.append("\t".join([video["domain"], video_id, f'"{video["title"]}"', video["url"], video["length"]]))
        for rater in tvsum_frame_scores(video):
            scores.append("\t".join([video_id, video["domain"], ",".join(str(int(score)) for score in rater)]))
    write_text(Path(folder) / "ydata-tvsum50-info.tsv", "\n".join(info) + "\n", compress)
    write_text(Path(folder) / "ydata-tvsum50-anno.tsv", "\n".join(scores) + "\n", compress)


# ---- any benchmark ----


WRITERS = {
    "qvhighlights": write_qvhighlights,
    "charades_sta": write_charades_sta,
    "ego4d_nlq": write_ego4d_nlq,
    "tacos": write_tacos,
    "youtube_highlights": write_youtube_highlights,
    "tvsum": write_tvsum,
}


def write_benchmark(name, folder, form=None, **options):
    """Write all splits of a benchmark in one form (the first of `FORMS[name]` by default) and return the folder."""
    return WRITERS[name](folder, form or FORMS[name][0], **options)


def video_durations(name):
    """Length in seconds of every video of a benchmark, by video id."""
    if name in ("youtube_highlights", "tvsum"):
        videos = youtube_annotations() if name == "youtube_highlights" else tvsum_annotations()
        return {video_id: int(video["frames"]) / video["fps"] for video_id, video in videos.items()}
    rows = [row for split in SPLITS[name] for row in moment_records(name, split)]
    return {row["vid"]: row["duration"] for row in rows}


def write_videos(name, folder, container="mp4"):
    """Write a numbered video (see `video_samples`) for every video of a benchmark, named as its users name them."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for video_id, duration in video_durations(name).items():
        path = Path(folder) / f"{video_id}{VIDEO_SUFFIX.get(name, '')}.{container}"
        video_samples.write_video(path, count=round(duration * VIDEO_FPS), rate=VIDEO_FPS)
    return Path(folder)
