"""Public submission files as predictions of this package.

| file | content | becomes |
|---|---|---|
| TVR | `{"video2idx": {name: index}, "VCMR": [{"desc_id", "predictions": [[index, start, end, score], ...]}], "SVMR", "VR"}` | records with `qid` and, for each task, `[[video_id, start, end], ...]`, for `VR` `[video_id, ...]` |
| VUE-TR | `[{"query_id", "answer": [[start, end], ...]}]` | records with `qid` and `pred_relevant_windows`; an empty answer `[]` inside the list is dropped |
| all others | `[{"qid", "pred_relevant_windows", ...}]` | unchanged |
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .alignment import MAX_CHARACTERS


TASKS = ("VCMR", "SVMR", "VR")


def read_submission(document: Any) -> list[dict[str, Any]]:
    """The predictions of a parsed submission file; its form is recognised by its keys (table in the module's docstring).

    Args:
        document: What `json.load` returns for the file, or the list of the records of a file of JSON lines.

    Returns:
        Records for `compute_scores`, one for each query.

    Raises:
        ValueError: The document has another form, or names a video that its `video2idx` lacks.
    """
    if isinstance(document, Mapping) and "video2idx" in document:
        return _read_tvr(document)
    if not isinstance(document, Sequence) or isinstance(document, str | bytes):
        raise ValueError(
            "A submission is a list of records, or for TVR a dictionary with `video2idx`, got "
            f"{str(document)[:MAX_CHARACTERS]}."
        )
    records = []
    for index, record in enumerate(document):
        if not isinstance(record, Mapping):
            raise ValueError(
                f"Record {index} of the submission must be a dictionary, got {str(record)[:MAX_CHARACTERS]}."
            )
        if "query_id" in record and "answer" in record:
            record = {"qid": record["query_id"], "pred_relevant_windows": _filled(record["answer"])}
        records.append(dict(record))
    return records


def _filled(answer: Any) -> Any:
    """An answer without its empty parts; VUE-TR writes "nothing found" as `[[]]`, too."""
    if not isinstance(answer, list):
        return answer
    return [moment for moment in answer if moment != []]


def _read_tvr(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = {}
    for name, index in document["video2idx"].items():
        names[index] = name
    records: dict[str, dict[str, Any]] = {}
    for task in TASKS:
        for entry in document.get(task, []):
            qid = str(entry["desc_id"])
            try:
                videos = [names[prediction[0]] for prediction in entry["predictions"]]
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"`{task}` of query '{qid}' must hold [video index, start, end] with indices of `video2idx`; found "
                    f"{error!r}."
                ) from error
            record = records.setdefault(qid, {"qid": qid})
            if task == "VR":
                record[task] = videos
            else:
                pairs = zip(videos, entry["predictions"], strict=True)
                record[task] = [[video, *prediction[1:3]] for video, prediction in pairs]
    return list(records.values())


__all__ = ["read_submission"]
