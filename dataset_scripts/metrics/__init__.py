"""Metrics of the benchmarks, in NumPy.

`compute_scores` scores a whole list of predictions by the metric that the benchmark's spec names:

| metric | benchmarks | module | source |
|---|---|---|---|
| "grounding" | QVHighlights, Charades-STA, Ego4D-NLQ, TACoS, ActivityNet Captions, Moving Shapes | `moments.py`, `highlights.py`, `existence.py` | R2-Tuning, UniVTG |
| "highlights" | YouTube Highlights | `highlights.py` | R2-Tuning |
| "summaries" | TVSum, summaries of Moving Shapes | `summaries.py` | R2-Tuning |
| "generalized" | Soccer-GMR | `generalized.py` | dymm9977/generalized-moment-retrieval |
| "multi_moment" | QV-M2 | `multi_moment.py` | Zhuo-Cao/QV-M2 |
| "corpus" | TVR | `corpus.py` | jayleicn/TVRetrieval |
| "interval_sets" | VUE-TR | `interval_sets.py` | bytedance/vidi |
| "first_moment" | TimeLens-Bench | `first_moment.py` | TencentARC/TimeLens |

With `match_reference_code=True` scores equal those of the source to the last printed digit. `moment_retrieval.py`,
`highlight_detection.py` and `summarization.py` wrap the first three as modules for `evaluate.load`. (These are separate
files because `evaluate` imports transformers, and with it torch.) `read_submission` converts public submission files.

The default mode scores what the sources leave out or fail on. The table is for "grounding", "highlights" and "summaries";
each of the other modules has a table of its own. Where the released R2-Tuning code has an answer, the default mode agrees
with it, except for the last three rows. In brackets: what the released code does where it has no answer.

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction | counts as 0 | `ValueError` (AssertionError) |
| `pred_relevant_windows` empty or missing | counts as 0 | `ValueError` (IndexError, KeyError) |
| `pred_saliency_scores` empty or missing | counts as 0 | `ValueError` (ValueError, KeyError) |
| absent query (`moments` is an empty list), for moments | not scored | `ValueError` (IndexError) |
| query without `moments` or without `saliency` | not scored for that task | `ValueError` (IndexError, KeyError) |
| prediction for an unknown query | `ValueError` | `ValueError` (AssertionError) |
| value that is not finite, moment without score | `ValueError` | `ValueError` (NaN, IndexError) |
| nothing to score | `ValueError` | `ValueError` (an empty result) |
| absent query, for highlights | not scored | counts as 0 |
| range (short, middle, long) without a query | `None` | the figures of "full" |
| the first prediction or reference lacks a field that others have | scored, as above | task left out |

Existence is scored in the default mode only, where a query is absent and a prediction has `pred_exist_score`. With
`match_number=False` only the queries that both sides have are scored, in both modes.
"""

from .corpus import score_corpus
from .existence import score_existence
from .first_moment import score_first_moment
from .generalized import score_generalized
from .highlights import score_highlights, score_youtube_highlights
from .interval_sets import score_interval_sets
from .moments import score_moments
from .multi_moment import score_multi_moment
from .scoring import compute_scores
from .submissions import read_submission
from .summaries import score_summaries


__all__ = [
    "compute_scores",
    "read_submission",
    "score_corpus",
    "score_existence",
    "score_first_moment",
    "score_generalized",
    "score_highlights",
    "score_interval_sets",
    "score_moments",
    "score_multi_moment",
    "score_summaries",
    "score_youtube_highlights",
]
