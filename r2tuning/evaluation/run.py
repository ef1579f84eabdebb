"""`r2tuning evaluate` and `train/run_evaluation.py`: scores a prediction file, a checkpoint or a library on a benchmark."""

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Any

from dataset_scripts import load_vtg_dataset
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.metrics import compute_scores
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.files_r2tuning import check_replaceable, writing
from modeling_r2tuning.loading_r2tuning import check_vocabulary
from r2tuning.checks import (
    check_annotation_files,
    check_distinct,
    check_folders,
    check_model_name,
    check_model_type,
    choose_device,
    locate_model,
)
from r2tuning.evaluation.predictions import (
    count_missing,
    find_unreadable,
    leave_out,
    predict,
    write_predictions,
    write_submission,
)
from r2tuning.evaluation.submissions import read_prediction_file
from r2tuning.evaluation.tables import describe_scores
from r2tuning.features.cache import FeatureCache, recorded_lengths
from r2tuning.hub.model_card import Results, write_model_card
from r2tuning.released.resolve import is_original, resolve_checkpoint
from r2tuning.terminal import report
from r2tuning_cli.data_arguments import dataset_options
from r2tuning_cli.main import run_script
from r2tuning_cli.programs import option_names


PART_COLUMNS = {
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "mAP": "MR-full-mAP",
    "HIT@1": "HL-min-VeryGood-Hit1",
}
EXISTENCE_COLUMNS = {
    "AUROC": "EX-AUROC",
    "FAR@95": "EX-FAR@95",
    "ECE": "EX-ECE",
    "Rej-F1@0.5": "EX-Rej-F1@0.5",
}
RANGES = ("full", "short", "middle", "long")
LEVELS = {"HL-min-Fair": "Fair", "HL-min-Good": "Good", "HL-min-VeryGood": "VeryGood"}


def main(argv: list[str] | None = None) -> int:
    """Run the script `train/run_evaluation.py`; returns its exit status."""
    return run_script("evaluate", "run_evaluation.py", run, argv)


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_evaluate, args), prefix, option_names("evaluate"))


def _evaluate(args: argparse.Namespace) -> int:
    check_arguments(args)
    options = dataset_options(args) | {
        "split": args.split,
        "lengths": recorded_lengths(args.benchmark, args.features),
    }
    rows = list(load_vtg_dataset(args.benchmark, **options))
    check_truth(args, rows)
    num_queries = len(rows) + count_missing(args.benchmark, len(rows), options)
    predictions, rows = get_predictions(args, rows)
    document = evaluate(args, predictions, rows, num_left_out=num_queries - len(rows))
    sys.stdout.write(format_scores(document))
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse, before anything is read or fetched, what does not exist or could not be written at the end.

    Raises:
        FileExistsError: A file to write is something else.
        FileNotFoundError: A folder is missing.
        ValueError: The device cannot be used, two outputs have the same path, or `--record` has nothing to add to.
    """
    check_folders(data_dir=args.data_dir, video_dir=args.video_dir, features=args.features)
    check_annotation_files(args.benchmark, data_file=args.data_file, val_file=args.val_file)
    inputs = [path for path in (args.predictions, args.data_file, args.val_file) if path is not None]
    outputs = [path for path in (args.output, args.save_predictions) if path is not None]
    for path in outputs:
        check_replaceable(path, *inputs)
    check_distinct(outputs)
    if args.model is None:
        return
    args.model = locate_model(args.model)
    if not is_original(args.model):
        check_model_name("model", args.model)
    if args.backbone is not None:
        check_model_name("backbone", args.backbone)
    choose_device(args.device)
    if args.record:
        read_results(args.model, args.benchmark)


def check_truth(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Refuse annotations without ground truth, unless predictions will be written for the server."""
    if args.submission is None and not has_truth(rows):
        raise ValueError(
            f"The {args.split} annotations hold no ground truth to score against. Name a file that does with "
            "`data_files`, or write a file for the server with `submission`."
        )


def has_truth(rows: list[dict[str, Any]]) -> bool:
    """Whether there is something to score against."""
    return any(row["moments"] is not None or row["saliency"] is not None for row in rows)


def get_predictions(
    args: argparse.Namespace, rows: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Predictions from the file, the library or the checkpoint, and the rows to score them on.

    Predictions that are made here are written to `--save-predictions`. Queries whose videos cannot be read are removed from
    the rows if `--missing-videos` allows it.
    """
    if args.predictions is not None:
        return read_prediction_file(args.predictions, args.benchmark), rows
    if args.library is not None:
        from r2tuning.evaluation.retrieval import search_library  # needs LanceDB, which is optional

        predictions = search_library(args.library, rows, args.benchmark, choose_device(args.device))
        if args.save_predictions is not None:
            write_predictions(predictions, args.save_predictions)
        return predictions, rows
    name = args.model
    if is_original(name):
        name = resolve_checkpoint(name, benchmark=args.benchmark, domain=args.domain, backbone=args.backbone)
    check_model_type(name, "r2tuning")
    backbone = {}
    if args.backbone is not None:
        backbone = {"backbone_name_or_path": args.backbone, "backbone_revision": None}
    model = R2TuningForVideoGrounding.from_pretrained(name, **backbone)
    model.to(choose_device(args.device)).eval()  # type: ignore[arg-type]  # decorated in transformers without types
    processor = R2TuningProcessor.from_pretrained(name)
    check_vocabulary(processor.tokenizer, model)
    unchecked, cache = None, None
    if args.features is not None:
        unchecked = FeatureCache(args.features, model=model, fps=processor.fps, check=False)
        cache = FeatureCache(args.features, model=model, fps=processor.fps, check=True)
    rows = leave_out(rows, find_unreadable(rows, unchecked), args.missing_videos)
    predictions = list(
        predict(model, processor, rows, cache, benchmark=args.benchmark, missing_videos=args.missing_videos)
    )
    if args.save_predictions is not None:
        write_predictions(predictions, args.save_predictions)
    answered = {prediction["qid"] for prediction in predictions}
    return predictions, [row for row in rows if row["qid"] in answered]


def evaluate(
    args: argparse.Namespace, predictions: list[dict[str, Any]], rows: list[dict[str, Any]], num_left_out: int = 0
) -> dict[str, Any]:
    """Compute the scores and write the requested files; returns the document of `--output`."""
    document = {
        "benchmark": args.benchmark,
        "split": args.split,
        "domain": args.domain,
        "predictions": str(args.predictions or args.save_predictions or ""),
        "model": args.model,
        "library": None if args.library is None else str(args.library),
        "match_reference_code": args.match_reference_code,
        "num_queries": len(rows),
        "num_left_out": num_left_out,
        "num_predictions": len(predictions),
    }
    if args.submission is not None:
        document["submission"] = str(write_submission(predictions, args.submission, args.split))
    if has_truth(rows):
        document["scores"] = compute_scores(
            args.benchmark,
            predictions,
            rows,
            match_reference_code=args.match_reference_code,
            match_number=not args.shared_queries_only,
        )
        if BENCHMARKS[args.benchmark].parts and args.domain is None:
            document["parts"] = score_parts(args.benchmark, predictions, rows)
    if args.record:
        record(document)
    if args.output is not None:
        with writing(args.output) as partial:
            partial.write_text(json.dumps(_null_nan(document), indent=2) + "\n", encoding="utf-8")
    return document


def _null_nan(value: Any) -> Any:
    """A document with null in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _null_nan(inner) for key, inner in value.items()}
    return None if value != value else value


def score_parts(
    benchmark: str, predictions: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> dict[str, dict[str, float | None]]:
    """Scores of each part of a benchmark that has queries among `rows`; unanswered queries count as zero.

    If any part has absent queries and scores for them, all parts have the columns of existence.
    """
    by_qid = {prediction["qid"]: prediction for prediction in predictions}
    briefs: dict[str, dict[str, float | None]] = {}
    for part, families in BENCHMARKS[benchmark].parts.items():
        some = [row for row in rows if row["domain"] in families]
        if not some:
            continue
        answered = [by_qid[row["qid"]] for row in some if row["qid"] in by_qid]
        briefs[part] = compute_scores(benchmark, answered, some)["brief"]
    columns = dict(PART_COLUMNS)
    if any("EX-AUROC" in brief for brief in briefs.values()):
        columns |= EXISTENCE_COLUMNS
    scores = {}
    for part, brief in briefs.items():
        scores[part] = {column: brief.get(name) for column, name in columns.items()}
    return scores


def record(document: dict[str, Any]) -> None:
    """Add the scores to `results.json` and to the card of the evaluated checkpoint."""
    folder = Path(document["model"])
    results = read_results(folder, document["benchmark"])
    words = [document["split"]]
    if document["domain"] is not None:
        words.append(document["domain"])
    if document["num_left_out"]:
        words.append(f"{document['num_left_out']:,} queries left out")
    parts = document.get("parts") or {"all": document["scores"]["brief"]}
    results.evaluations = {**(results.evaluations or {}), ", ".join(words): parts}
    results.save(folder)
    write_model_card(folder)


def read_results(folder: str | Path, benchmark: str) -> Results:
    """Results of the training run, to which `record` adds."""
    results = Results.load(Path(folder))
    if results is None or results.benchmark != benchmark:
        raise ValueError(f"`record` adds to the results of a training run on {benchmark}; '{folder}' has none.")
    return results


# ---- the printed table ---------------------------------------------------------------------------------------------


def format_scores(document: dict[str, Any]) -> str:
    """The scores as printed tables."""
    title = f"{document['benchmark']} {document['split']}, {document['num_queries']:,} queries"
    if document["num_left_out"]:
        title += f" without {document['num_left_out']:,} whose videos are missing or cannot be read"
    scores = document.get("scores")
    if scores is None:
        return f"{title}: no ground truth\n"
    tables = [title]
    own_tables = describe_scores(BENCHMARKS[document["benchmark"]].metric, scores)
    if own_tables:
        tables += [_table(*table) for table in own_tables]
        return "\n\n".join(tables) + "\n"
    if "full" in scores:
        tables.append(_table("moments", {name: _moment_columns(scores[name]) for name in RANGES}))
        lengths = {}
        for words, part in scores["by_query_length"].items():
            lengths[words] = {"queries": part["queries"], "mAP": part["MR-mAP"]}
        tables.append(_table("words", lengths))
    if "parts" in document:
        tables.append(_table("queries", document["parts"]))
    levels = {label: scores[key] for key, label in LEVELS.items() if key in scores}
    if levels:
        columns = {label: {"mAP": part["HL-mAP"], "HIT@1": part["HL-Hit1"]} for label, part in levels.items()}
        tables.append(_table("highlights", columns))
    existence = {
        column: scores["brief"][name] for column, name in EXISTENCE_COLUMNS.items() if name in scores["brief"]
    }
    if existence:
        tables.append(_table("existence", {"all": existence}))
    elif set(scores) == {"brief"}:
        domains = {name.removeprefix("mAP-"): {"mAP": value} for name, value in scores["brief"].items()}
        tables.append(_table("domain", domains))
    return "\n\n".join(tables) + "\n"


def _moment_columns(part: dict[str, Any]) -> dict[str, float | None]:
    columns = {f"R1@{level}": part["MR-R1"][level] for level in ("0.3", "0.5", "0.7")}
    columns |= {f"R5@{level}": part["MR-R5"][level] for level in ("0.5", "0.7")}
    columns |= {"mAP": part["MR-mAP"]["average"]}
    columns |= {f"mAP@{level}": part["MR-mAP"][level] for level in ("0.5", "0.75")}
    return columns | {"mIoU": part["MR-mIoU"]}


def _table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    """A table with numbers aligned to the right, and `-` where there is nothing to score."""
    lines = [[title, *next(iter(rows.values()))]]
    for name, columns in rows.items():
        lines.append([name, *map(_cell, columns.values())])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for first, *cells in lines:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        text.append("  ".join([first.ljust(widths[0]), *aligned]))
    return "\n".join(text)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["evaluate", "format_scores", "get_predictions", "main", "run", "score_parts"]
