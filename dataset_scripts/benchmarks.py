"""The settings of each benchmark, in one place; the standard library alone, so that a command line may read them.

To add a benchmark: a builder (a file like `tacos.py`), a spec here, a preset in `r2tuning/training/presets` and an entry
in `hub_cards/datasets.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


__all__ = [
    "ABSENT_KINDS",
    "BENCHMARKS",
    "FAMILIES",
    "HARD_FAMILIES",
    "MAIN_FAMILIES",
    "ORIGINAL_REPOSITORY",
    "UNIT_SEC",
    "BenchmarkSpec",
    "SaliencySpec",
    "absent_domains",
    "released_benchmarks",
]

ORIGINAL_REPOSITORY = "yeliudev/R2-Tuning"  # the authors' repository on the Hub
UNIT_SEC = 2.0  # length of a unit of saliency; on YouTube Highlights each unit has times of its own


@dataclass(frozen=True)
class SaliencySpec:
    """How a benchmark annotates saliency, and which unit labels which frame in training.

    Attributes:
        lowest: Lowest score that an annotator can give.
        highest: Highest score that an annotator can give.
        frames: "by_time": a frame has the score of the unit it lies in, and 0 after the last unit. "in_order": frame i
            has the score of unit i, and the frames after the last unit are left out of training. "one_per_unit": the
            frame rate is chosen for each video so that every unit has one frame.
    """

    lowest: int
    highest: int
    frames: Literal["by_time", "in_order", "one_per_unit"] = "by_time"


@dataclass(frozen=True)
class BenchmarkSpec:
    """Settings of a benchmark: how it is read, sampled, trained on, post-processed and scored.

    The training settings are those of the released configurations where the authors of R2-Tuning released checkpoints
    (`released_checkpoints`), and our choice elsewhere; a preset or the command line may override them.

    Attributes:
        name: The benchmark's name in every command and function.
        builder: Class that reads the annotations, as "module:Class"; it is imported when the benchmark is loaded.
        metric: How predictions are scored. "grounding": moments and the saliency of QVHighlights. "highlights" and
            "summaries": saliency by domain, as on YouTube Highlights and on TVSum. The others follow the public code of
            one benchmark: "generalized" Soccer-GMR, "multi_moment" QV-M2, "corpus" TVR, "interval_sets" VUE-TR,
            "first_moment" TimeLens-Bench.
        fps: Sampled frames per second; on YouTube Highlights the median over its videos.
        saliency: Scale and layout of the saliency annotations.
        dropout: Dropout of the input projections.
        window_sec: Length of the longest training video, rounded up; longer videos are grounded in windows.
        saliency_loss_weight: Weight of the saliency loss.
        positive_saliency: Which frames are positive, on benchmarks without moments; `None` = moments are annotated.
        nms: Non-maximum suppression of the predicted moments.
        round_to: Unit in seconds to which predicted moments are rounded.
        domains: Domains that have a model each; empty = one model for all of the benchmark.
        parts: Groups of domains, by name, that are scored in addition to the whole benchmark.
        short_name: The benchmark in the names of converted checkpoints, such as "r2tuning-qvhl".
        released_checkpoints: The authors' checkpoint files by domain (`None` = the only one), without folder and ending.
    """

    name: str
    builder: str
    metric: Literal[
        "grounding",
        "highlights",
        "summaries",
        "generalized",
        "multi_moment",
        "corpus",
        "interval_sets",
        "first_moment",
    ]
    fps: float = 0.5
    saliency: SaliencySpec = SaliencySpec(0, 4)
    dropout: float = 0.5
    window_sec: float = 150.0
    saliency_loss_weight: float = 0.1
    positive_saliency: Literal["above_median", "above_half"] | None = None
    nms: Literal["hard", "linear", "gaussian"] | None = "linear"
    round_to: float | None = None
    domains: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    short_name: str = ""
    released_checkpoints: Mapping[str | None, str] = field(default_factory=dict)


# Families of queries of Moving Shapes. A single frame shows whether a query of the main part is true, but not one of the
# hard part.
MAIN_FAMILIES = ("presence", "co-presence", "place", "size")
HARD_FAMILIES = ("motion", "order")
FAMILIES = MAIN_FAMILIES + HARD_FAMILIES
# Kinds of absent queries; the family "presence" has no hard ones.
ABSENT_KINDS = ("easy", "binding", "hard")


def absent_domains(kinds: tuple[str, ...] = ABSENT_KINDS, families: tuple[str, ...] = FAMILIES) -> tuple[str, ...]:
    """Domains of the absent queries of Moving Shapes: "family/kind"."""
    return tuple(f"{family}/{kind}" for family in families for kind in kinds)


SPECS = (
    BenchmarkSpec(
        name="qvhighlights",
        builder="dataset_scripts.qvhighlights:QVHighlights",
        metric="grounding",
        nms="hard",
        round_to=2.0,
        short_name="qvhl",
        released_checkpoints={None: "qvhighlights-ed516355"},
    ),
    BenchmarkSpec(
        name="ego4d_nlq",
        builder="dataset_scripts.ego4d_nlq:Ego4DNLQ",
        metric="grounding",
        dropout=0.3,
        window_sec=1200.0,
        short_name="ego4d",
        released_checkpoints={None: "ego4d-6a6f5754"},
    ),
    BenchmarkSpec(
        name="charades_sta",
        builder="dataset_scripts.charades_sta:CharadesSTA",
        metric="grounding",
        fps=1.0,
        dropout=0.35,
        window_sec=195.0,
        saliency_loss_weight=0.01,
        round_to=0.1,
        short_name="charades",
        released_checkpoints={None: "charades-1de02112"},
    ),
    BenchmarkSpec(
        name="tacos",
        builder="dataset_scripts.tacos:TACoS",
        metric="grounding",
        window_sec=1410.0,
        saliency_loss_weight=0.05,
        short_name="tacos",
        released_checkpoints={None: "tacos-81759b55"},
    ),
    BenchmarkSpec(
        name="youtube_highlights",
        builder="dataset_scripts.youtube_highlights:YouTubeHighlights",
        metric="highlights",
        fps=0.59,
        saliency=SaliencySpec(-1, 1, "one_per_unit"),
        window_sec=1490.0,
        positive_saliency="above_half",
        nms=None,
        domains=("dog", "gymnastics", "parkour", "skating", "skiing", "surfing"),
        short_name="youtube",
        released_checkpoints={
            "dog": "youtube_dog-702bd293",
            "gymnastics": "youtube_gym-ff68b1b3",
            "parkour": "youtube_par-27442af0",
            "skating": "youtube_ska-dad28398",
            "skiing": "youtube_ski-df2edc4c",
            "surfing": "youtube_sur-d384d8b2",
        },
    ),
    BenchmarkSpec(
        name="tvsum",
        builder="dataset_scripts.tvsum:TVSum",
        metric="summaries",
        saliency=SaliencySpec(1, 5, "in_order"),
        window_sec=650.0,
        positive_saliency="above_median",
        nms=None,
        domains=("BK", "BT", "DS", "FM", "GA", "MS", "PK", "PR", "VT", "VU"),
        short_name="tvsum",
        released_checkpoints={
            "BK": "tvsum_bk-45b59440",
            "BT": "tvsum_bt-13683fdf",
            "DS": "tvsum_ds-d11b33d3",
            "FM": "tvsum_fm-2c8c119d",
            "GA": "tvsum_ga-58e79858",
            "MS": "tvsum_ms-d9b4f8fa",
            "PK": "tvsum_pk-1830ce03",
            "PR": "tvsum_pr-51d78fc9",
            "VT": "tvsum_vt-0069d8d3",
            "VU": "tvsum_vu-6f8ebb4b",
        },
    ),
    # The settings of the next six benchmarks are ours: R2-Tuning was not published on them. `window_sec` follows from the
    # longest training video. VUE-TR and TimeLens-Bench have no training split; only `fps` and `metric` matter there.
    BenchmarkSpec(
        name="soccer_gmr",
        builder="dataset_scripts.soccer_gmr:SoccerGMR",
        metric="generalized",
        fps=1.0,  # moments are as short as 2 s
    ),
    BenchmarkSpec(
        name="qv_m2",
        builder="dataset_scripts.qv_m2:QVM2",
        metric="multi_moment",
        nms="hard",
        round_to=2.0,
    ),
    BenchmarkSpec(
        name="tvr",
        builder="dataset_scripts.tvr:TVR",
        metric="corpus",
        fps=1.0,
        window_sec=275.0,
    ),
    BenchmarkSpec(
        name="vue_tr",
        builder="dataset_scripts.vue_tr:VUETR",
        metric="interval_sets",
    ),
    BenchmarkSpec(
        name="activitynet_captions",
        builder="dataset_scripts.activitynet_captions:ActivityNetCaptions",
        metric="grounding",
        window_sec=760.0,
    ),
    BenchmarkSpec(
        name="timelens_bench",
        builder="dataset_scripts.timelens_bench:TimeLensBench",
        metric="first_moment",
        fps=1.0,
    ),
    BenchmarkSpec(
        name="moving_shapes",
        builder="dataset_scripts.moving_shapes.builder:MovingShapes",
        metric="grounding",
        fps=1.0,
        nms="hard",
        parts={
            "all": FAMILIES,
            "main": MAIN_FAMILIES,
            "hard": HARD_FAMILIES,
            **{family: (family,) for family in FAMILIES},
        },
    ),
    BenchmarkSpec(
        name="moving_shapes_absent",
        builder="dataset_scripts.moving_shapes.builder:MovingShapesAbsent",
        metric="grounding",
        fps=1.0,
        nms="hard",
        parts={
            "all": FAMILIES + absent_domains(),
            "main": MAIN_FAMILIES,
            "hard": HARD_FAMILIES,
            **{family: (family, *absent_domains(families=(family,))) for family in FAMILIES},
            # With the present queries, without which no score of existence is defined.
            **{f"absent-{kind}": FAMILIES + absent_domains(kinds=(kind,)) for kind in ABSENT_KINDS},
        },
    ),
    BenchmarkSpec(
        name="moving_shapes_summary",
        builder="dataset_scripts.moving_shapes.builder:MovingShapesSummary",
        metric="summaries",
        saliency=SaliencySpec(1, 5, "in_order"),
        positive_saliency="above_median",
        nms=None,
    ),
)
BENCHMARKS: dict[str, BenchmarkSpec] = {spec.name: spec for spec in SPECS}


def released_benchmarks() -> dict[str, BenchmarkSpec]:
    """The benchmarks for which the authors released checkpoints."""
    return {name: spec for name, spec in BENCHMARKS.items() if spec.released_checkpoints}
