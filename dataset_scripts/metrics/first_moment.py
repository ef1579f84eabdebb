"""The first predicted moment of each query (TimeLens-Bench).

Source: the reader and metric of TencentARC/TimeLens. Each query has one moment. Of a prediction only the first moment in
list order counts, whatever its score; IoU divides the overlap by the span from the first start to the last end.

- `R1@0.3`, `R1@0.5`, `R1@0.7`: share of the queries with an IoU at or above the threshold.
- `mIoU`: mean IoU.

| case | default | `match_reference_code=True` |
|---|---|---|
| query without a prediction | IoU 0 | `ValueError`: the public code answers every query in its run |
| prediction without a moment | IoU 0 | IoU 0 (the moment [-100, -100]) |
| reversed prediction (end before start) | `ValueError` | IoU 0 |
| prediction for an unknown query | `ValueError` | `ValueError` |
| query with several moments | the one with the highest IoU | `ValueError` (undefined) |
| `moments` is `[]` or `None` | not scored | `ValueError` (undefined) |
| two predictions for a query | the last one | the last one |
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .alignment import align, read_predictions, require
from .average_precision import percent
from .moments import count_moments, hull_iou


THRESHOLDS = (0.3, 0.5, 0.7)


def score_first_moment(
    predictions: Iterable[Mapping],
    references: Iterable[Mapping],
    *,
    match_reference_code: bool = False,
    match_number: bool = True,
) -> dict[str, dict[str, Any]]:
    """Score the first predicted moment with the metrics of TimeLens-Bench.

    Args:
        predictions: Records with `qid` and `pred_relevant_windows`, `[[start_sec, end_sec], ...]`; scores are ignored.
        references: Rows with `qid` and `moments`, one `[start_sec, end_sec]` each.
        match_reference_code: Refuse what the public code leaves undefined (table in the module's docstring).
        match_number: Both sides must hold the same queries; `False` = score the queries that both sides have.

    Returns:
        "brief", percentages rounded to two decimals, and "full", the same figures as the public code prints them, not
        rounded: `R1@0.3`, `R1@0.5`, `R1@0.7` and `mIoU`.

    Raises:
        ValueError: The two sides do not match, a prediction is malformed, or nothing is annotated.
    """
    queries = align(predictions, references, match_reference_code=match_reference_code, match_number=match_number)
    if match_reference_code:
        require("moments", [(query.qid, count_moments(query)) for query in queries])
    queries = [query for query in queries if count_moments(query)]
    if not queries:
        raise ValueError("None of the `references` has `moments`: there is nothing to score predictions against.")
    iou = np.zeros(len(queries))
    for index, query in enumerate(queries):
        moments = np.array(query.references[-1]["moments"], dtype=np.float64).reshape(-1, 2)
        if match_reference_code and len(moments) > 1:
            raise ValueError(
                f"The reference code scores one moment for each query, and '{query.qid}' has {len(moments)}. Pass "
                "`match_reference_code=False` to score the closest one."
            )
        predicted = []
        if query.predictions:
            predicted = read_predictions(query.predictions[-1], allow_reversed=match_reference_code)
        if predicted:
            first = np.array([predicted[0][:2]], dtype=np.float64)
            iou[index] = hull_iou(first.repeat(len(moments), axis=0), moments).max()
    full = {f"R1@{threshold}": float((iou >= threshold).mean() * 100) for threshold in THRESHOLDS}
    full["mIoU"] = float(iou.mean() * 100)
    return {"brief": {name: percent(value / 100) for name, value in full.items()}, "full": full}


__all__ = ["score_first_moment"]
