"""The report on a user's own data: what `r2tuning check-data` prints and writes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .benchmarks import BENCHMARKS, OWN_DATA, UNIT_SEC
from .custom import OwnData
from .custom_examples import Example
from .custom_findings import KINDS, Finding, first_examples


__all__ = ["describe_data", "format_report", "suggest_settings"]

SHORT_MOMENT_SEC = 2 * UNIT_SEC
QUANTILES = {"shortest": 0.0, "tenth": 0.1, "median": 0.5, "longest": 1.0}
FRAME_RATES = (0.5, 1.0, 2.0, 4.0)  # that may be suggested
FRAMES_PER_MOMENT = 2  # that a short moment should have at the suggested rate
WINDOW_STEP_SEC = 10
EFFECTS = {
    "left_out": "cannot be used",
    "missing": "cannot be used",
    "changed": "changed",
    "noted": "used as they are",
    "information": "for information",
}
WIDTH = 12  # of the columns of the table


def describe_data(data: OwnData) -> dict[str, Any]:
    """Everything in the report, as values for JSON.

    Returns:
        "splits": numbers of each split; "findings": by kind with all places; "held_out": ids of the videos held out for
        validation; "suggested": settings that suit the training data, `{}` without any.
    """
    findings = {}
    for kind, found in data.findings.by_kind().items():
        findings[kind] = {
            "title": KINDS[kind].title,
            "effect": KINDS[kind].effect,
            "count": len(found),
            "advice": KINDS[kind].advice,
            "places": [{"place": finding.place, "detail": finding.detail} for finding in found],
        }
    return {
        "splits": {split: _describe_split(examples) for split, examples in data.examples.items()},
        "findings": findings,
        "held_out": data.held_out,
        "suggested": suggest_settings(data.examples.get("train", [])),
    }


def _describe_split(examples: list[Example]) -> dict[str, Any]:
    lengths = {example["video_id"]: example["duration_sec"] for example in examples}
    moments = _moment_lengths(examples)
    return {
        "videos": len(lengths),
        "queries": len(examples),
        "absent_queries": sum(not example["moments"] for example in examples),
        "queries_with_saliency": sum(example["saliency"] is not None for example in examples),
        "moments": len(moments),
        "moments_below_two_units": sum(length < SHORT_MOMENT_SEC for length in moments),
        "video_sec": _quantiles(list(lengths.values())),
        "moment_sec": _quantiles(moments),
    }


def _moment_lengths(examples: list[Example]) -> list[float]:
    lengths = []
    for example in examples:
        lengths += [end - start for start, end in example["moments"]]
    return lengths


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {name: round(float(np.quantile(values, share)), 2) for name, share in QUANTILES.items()}


def suggest_settings(examples: list[Example]) -> dict[str, float]:
    """Frame rate and window that suit training data: fields of `R2TuningConfig`, `{}` without a moment.

    At the suggested rate nine of ten moments have at least two frames, unless that needs more than 4 frames per second.
    The window is the length of the longest video.
    """
    moments = _moment_lengths(examples)
    if not moments:
        return {}
    wanted = FRAMES_PER_MOMENT / float(np.quantile(moments, QUANTILES["tenth"]))
    fps = next((rate for rate in FRAME_RATES if rate >= wanted), FRAME_RATES[-1])
    longest = max(example["duration_sec"] for example in examples)
    return {"fps": fps, "window_sec": float(-(-longest // WINDOW_STEP_SEC) * WINDOW_STEP_SEC)}


# ---- as text -------------------------------------------------------------------------------------------------------


def format_report(data: OwnData) -> str:
    """The report as text: the numbers of each split, the findings, and suggested settings."""
    document = describe_data(data)
    lines = _format_splits(document["splits"])
    empty = [split for split, examples in data.examples.items() if not examples]
    if empty:
        lines += ["", f"No query of {' and '.join(empty)} can be used."]
    if data.held_out:
        lines += ["", f"Videos held out for val, by a hash of their names: {len(data.held_out):,}."]
    lines += ["", *_format_findings(data)]
    suggested = document["suggested"]
    if suggested:
        spec = BENCHMARKS[OWN_DATA]
        lines += [
            "",
            f"The moments and videos of train suit {suggested['fps']:g} frames per second and a window of "
            f"{suggested['window_sec']:g} s (the default: {spec.fps:g} and {spec.window_sec:g} s).",
        ]
    return "\n".join(lines) + "\n"


def _format_splits(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = {
        "videos": [f"{split['videos']:,}" for split in splits.values()],
        "queries": [f"{split['queries']:,}" for split in splits.values()],
        "  that nothing matches": [_share(split, "absent_queries", "queries") for split in splits.values()],
        "  with saliency": [_share(split, "queries_with_saliency", "queries") for split in splits.values()],
        "moments": [f"{split['moments']:,}" for split in splits.values()],
        f"  shorter than {SHORT_MOMENT_SEC:g} s": [
            _share(split, "moments_below_two_units", "moments") for split in splits.values()
        ],
    }
    for subject in ("video", "moment"):
        for name in QUANTILES:
            label = "a tenth of the moments is below" if name == "tenth" else f"{name} {subject}"
            if (subject, name) != ("video", "tenth"):
                rows[label] = [_seconds(split[f"{subject}_sec"], name) for split in splits.values()]
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{split:>{WIDTH}}" for split in splits)]
    for label, cells in rows.items():
        lines.append(f"{label:{width}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))
    return lines


def _share(split: Mapping[str, Any], part: str, whole: str) -> str:
    number = split[part]
    return f"{number:,} ({100 * number / split[whole]:.0f} %)" if number else "0"


def _seconds(quantiles: Mapping[str, float], name: str) -> str:
    return f"{quantiles[name]:.1f} s" if quantiles else "-"


def _format_findings(data: OwnData) -> list[str]:
    by_kind = data.findings.by_kind()
    if not by_kind:
        return ["Nothing was found that needs attention."]
    lines = []
    for kind, findings in by_kind.items():
        effect = EFFECTS[KINDS[kind].effect]
        lines.append(f"{KINDS[kind].title}: {len(findings):,} ({effect}). {KINDS[kind].advice}")
        lines += _format_examples(findings)
    return lines


def _format_examples(findings: list[Finding]) -> list[str]:
    examples = first_examples(findings)
    lines = [f"  {example}" for example in examples]
    num_others = len(findings) - len(examples)
    if num_others > 0:
        lines.append(f"  and {num_others:,} more")
    return lines
