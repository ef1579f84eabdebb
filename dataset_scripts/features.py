"""The schema of all benchmarks."""

import datasets


# qid           identifies the query inside its split
# query         the sentence, without surrounding whitespace; the title of the video on benchmarks without queries
# video_id      the video's name in the annotation, without a file extension; null where the video is what the query
#               asks for and the answer is hidden (test split of TVR)
# video         path of the video file if `video_dir` is given, else null; never decoded on reading
# duration_sec  length of the video; null with `video_id`
# moments       [[start_sec, end_sec], ...] in ascending order; [] = annotated, and nothing in the video matches the query;
#               null = not annotated (a hidden test split, highlights)
# saliency      null = not annotated, else one row for each unit of the video, in order:
#   times_sec     [start_sec, end_sec] of the unit
#   scores        one score from each annotator, on the benchmark's own scale (QVHighlights: 0 to 4, three annotators, 0
#                 for units outside all moments; TVSum: 1 to 5, twenty annotators; YouTube Highlights: -1, 0 or 1, one
#                 label)
# domain        category of the video or query (`dog`, `BK`, `motion`), several joined by slashes
#               (`long/phrase/vision`); null on benchmarks without categories
# task          tasks that the annotation serves: "moment_retrieval", "highlight_detection", "video_summarization"
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
