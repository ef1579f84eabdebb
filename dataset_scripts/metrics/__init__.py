"""Metrics of the benchmarks, in NumPy.

`compute_scores` scores a whole list of predictions. `moments.py`, `highlights.py` and `summaries.py` hold one task each;
`moment_retrieval.py`, `highlight_detection.py` and `summarization.py` wrap them as modules for `evaluate.load`. (These
are separate files because `evaluate` imports transformers, and with it torch.)

The first table is for benchmarks whose metric is "grounding", "highlights" or "summaries". Where the evaluator of the released R2-Tuning code has an answer, ours agrees with it to the last printed digit; in the
default mode except for the last three rows of this table. In brackets: what the released code does where it has no answer.

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction | counts as 0 | `ValueError` (AssertionError) |
| `pred_relevant_windows` empty or missing | counts as 0 | `ValueError` (IndexError, KeyError) |
| `pred_saliency_scores` empty or missing | counts as 0 | `ValueError` (ValueError, KeyError) |
| absent query: `moments` is an empty list | scored for existence alone (`existence.py`) | `ValueError` (IndexError); its saliency counts as 0 if only saliency is scored |
| query without `moments` or without `saliency` | not scored for that task | `ValueError` (IndexError, KeyError) |
| prediction for an unknown query | `ValueError` | `ValueError` (AssertionError) |
| value that is not finite, moment without score | `ValueError` | `ValueError` (NaN, IndexError) |
| nothing to score | `ValueError` | `ValueError` (an empty result) |
| range (short, middle, long) without a query | `None` | the figures of "full" |
| the first prediction or reference lacks a field that others have | scored, as above | task left out |

With `match_number=False` only the queries that both sides have are scored, in both modes.
"""

from .highlights import score_highlights, score_youtube_highlights
from .moments import score_moments
from .scoring import compute_scores
from .summaries import score_summaries


__all__ = ["compute_scores", "score_highlights", "score_moments", "score_summaries", "score_youtube_highlights"]
