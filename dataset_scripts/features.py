"""The one schema that all benchmarks are read into."""

import datasets


# qid           identifies the query inside its split
# query         the sentence, blanks around it removed; the title of the video for the query-less benchmarks
# video_id      as the annotation names the video, without a file suffix
# video         path of the video file where `video_dir` is given, else null; never decoded on reading
# duration_sec  length of the video
# moments       [[start_sec, end_sec], ...] in rising order; null = not annotated (a hidden test, highlight benchmarks)
# saliency      null = not annotated, else one row for each clip of the video, in order:
#   times_sec     [start_sec, end_sec] of the clip
#   scores        what each annotator gave it, on the benchmark's own scale (QVHighlights 0 to 4, three annotators, clips
#                 outside all moments 0; TVSum 1 to 5, twenty annotators; YouTube Highlights -1, 0 or 1, one label)
# domain        the benchmark's category (`dog`, `BK`, `motion`); null where it has none
# task          what the annotation serves: "moment_retrieval", "highlight_detection", "video_summarization"
FEATURES = datasets.Features(
    {
        "qid": datasets.Value("string"),
        "query": datasets.Value("string"),
        "video_id": datasets.Value("string"),
        "video": datasets.Video(decode=False),
        "duration_sec": datasets.Value("float64"),
        "moments": [[datasets.Value("float64")]],
        "saliency": {
            "times_sec": [[datasets.Value("float64")]],
            "scores": [[datasets.Value("float64")]],
        },
        "domain": datasets.Value("string"),
        "task": [datasets.Value("string")],
    }
)


__all__ = ["FEATURES"]
