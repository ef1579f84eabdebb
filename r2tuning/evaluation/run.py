"""Score a prediction file, or a checkpoint, on a benchmark.

python train/run_evaluation.py --predictions FILE --benchmark qvhighlights --split val --data-dir ANNOTATIONS
python train/run_evaluation.py --model CHECKPOINT --benchmark tvsum --domain BK --data-dir ANNOTATIONS --video-dir VIDEOS
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from dataset_scripts import load_vtg_dataset
from dataset_scripts.advice import spell_options
from dataset_scripts.benchmarks import BENCHMARKS
from dataset_scripts.metrics import compute_scores
from dataset_scripts.moving_shapes.builder import PARTS
from modeling_r2tuning import R2TuningForVideoGrounding, R2TuningProcessor
from modeling_r2tuning.files_r2tuning import check_replaceable, writing
from modeling_r2tuning.loading_r2tuning import check_vocabulary
from r2tuning.checks import check_device, check_folders, check_model_name, check_model_type
from r2tuning.evaluation.predictions import (
    SUBMISSION_SPLITS,
    find_unreadable,
    leave_out,
    predict,
    read_predictions,
    write_predictions,
    write_submission,
)
from r2tuning.features.cache import FeatureCache
from r2tuning.hub.model_card import Results, write_model_card
from r2tuning.released.resolve import is_original, resolve_checkpoint


OTHER_OPTIONS = {  # what functions call their arguments
    "name": "--benchmark",
    "data_files": "--data-file",
    "match_number=False": "--shared-queries-only",
    "match_reference_code=False": "no --match-reference-code",
}
USER_ERRORS = (ImportError, OSError, ValueError)
PART_COLUMNS = {
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "mAP": "MR-full-mAP",
    "HIT@1": "HL-min-VeryGood-Hit1",
}
RANGES = ("full", "short", "middle", "long")
LEVELS = {"HL-min-Fair": "Fair", "HL-min-Good": "Good", "HL-min-VeryGood": "VeryGood"}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.INFO)
    transformers_logging.set_verbosity_error()
    args = make_parser().parse_args(argv)
    try:
        check_arguments(args)
        rows = load_rows(args, args.video_dir)
        check_truth(args, rows)
        num_queries = len(load_rows(args, None) if args.missing_videos == "skip" else rows)
        predictions, rows = get_predictions(args, rows)
        document = evaluate(args, predictions, rows, num_left_out=num_queries - len(rows))
    except USER_ERRORS as error:
        sys.stderr.write(f"run_evaluation: error: {spell_options(error, vars(args), OTHER_OPTIONS)}\n")
        return 2
    sys.stdout.write(format_scores(document))
    return 0


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what could not be done, or not be written in the end, before anything is read or fetched.

    Raises:
        FileExistsError: A file to write is something else.
        FileNotFoundError: A folder is missing.
        ValueError: Options contradict each other, or `--record` has nothing to add to.
    """
    check_folders(data_dir=args.data_dir, video_dir=args.video_dir, features=args.features)
    for path in (args.output, args.save_predictions):
        if path is not None:
            check_replaceable(path, *(each for each in (args.predictions, args.data_file) if each is not None))
    if args.submission is not None and args.split not in SUBMISSION_SPLITS:
        raise ValueError(f"`submission` needs `split` {' or '.join(SUBMISSION_SPLITS)}, got '{args.split}'.")
    if args.model is not None:
        check_model_arguments(args)
        return
    vain = [name for name in ("record", "save_predictions", "backbone", "device") if getattr(args, name)]
    if vain:
        raise ValueError(f"`{vain[0]}` goes with `model`; leave it out with `predictions`.")


def check_model_arguments(args: argparse.Namespace) -> None:
    """The same of what goes with `--model`."""
    if args.video_dir is None and args.features is None:
        raise ValueError("`model` needs `video_dir` or `features`.")
    if not is_original(args.model):
        check_model_name("model", args.model)
    if args.backbone is not None:
        check_model_name("backbone", args.backbone)
    if args.device is not None:
        check_device(args.device)
    if args.record:
        read_results(args.model, args.benchmark)


def load_rows(args: argparse.Namespace, video_dir: Path | None) -> list[dict[str, Any]]:
    """The annotations, with the paths of their videos if there is a folder of them."""
    dataset = load_vtg_dataset(
        args.benchmark,
        split=args.split,
        domain=args.domain,
        data_dir=args.data_dir,
        data_files=args.data_file,
        video_dir=video_dir,
        missing_videos=args.missing_videos,
        on_error=args.on_error,
    )
    return list(dataset)


def check_truth(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Refuse what can neither be scored nor is to be written for the server."""
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
    """Predictions from the file or of the checkpoint, and the rows to score them on.

    Those of a checkpoint are written to `--save-predictions`; queries whose videos cannot be read are no longer among
    the rows, if they may be left out.
    """
    if args.predictions is not None:
        return read_predictions(args.predictions), rows
    name = args.model
    if is_original(name):
        name = resolve_checkpoint(name, benchmark=args.benchmark, domain=args.domain, backbone=args.backbone)
    check_model_type(name, "r2tuning")
    backbone = {} if args.backbone is None else {"backbone_name_or_path": args.backbone, "backbone_revision": None}
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = R2TuningForVideoGrounding.from_pretrained(name, **backbone).to(device).eval()
    processor = R2TuningProcessor.from_pretrained(name)
    check_vocabulary(processor.tokenizer, model)
    quick, cache = (
        None if args.features is None else FeatureCache(args.features, model=model, fps=processor.fps, check=check)
        for check in (False, True)
    )
    rows = leave_out(rows, find_unreadable(rows, quick), args.missing_videos)
    predictions = list(
        predict(model, processor, rows, cache, benchmark=args.benchmark, missing_videos=args.missing_videos)
    )
    if args.save_predictions is not None:
        write_predictions(predictions, args.save_predictions)
    answered = {prediction["qid"] for prediction in predictions}
    return predictions, [row for row in rows if row["qid"] in answered]


def evaluate(
    args: argparse.Namespace, predictions: list[dict[str, Any]], rows: list[dict[str, Any]], num_left_out: int = 0
) -> dict:
    """Write what was asked for; returns the document of `--output`."""
    document = {
        "benchmark": args.benchmark,
        "split": args.split,
        "domain": args.domain,
        "predictions": str(args.predictions or args.save_predictions or ""),
        "model": args.model,
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
        if args.benchmark == "moving_shapes" and args.domain is None:
            document["parts"] = score_parts(predictions, rows)
    if args.record:
        record(document)
    if args.output is not None:
        with writing(args.output) as partial:
            partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def score_parts(predictions: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Scores of each part and family of Moving Shapes that has queries; of all of them, answered or not."""
    by_qid = {prediction["qid"]: prediction for prediction in predictions}
    scores = {}
    for part, families in PARTS.items():
        some = [row for row in rows if row["domain"] in families]
        if not some:
            continue
        answered = [by_qid[row["qid"]] for row in some if row["qid"] in by_qid]
        brief = compute_scores("moving_shapes", answered, some)["brief"]
        scores[part] = {column: brief[name] for column, name in PART_COLUMNS.items()}
    return scores


def record(document: dict[str, Any]) -> None:
    """Add the scores to `results.json` and to the card of the checkpoint that was measured."""
    folder = Path(document["model"])
    results = read_results(folder, document["benchmark"])
    words = [document["split"], *([document["domain"]] if document["domain"] is not None else [])]
    if document["num_left_out"]:
        words.append(f"{document['num_left_out']:,} queries left out")
    parts = document.get("parts") or {"all": document["scores"]["brief"]}
    results.evaluations = {**(results.evaluations or {}), ", ".join(words): parts}
    results.save(folder)
    write_model_card(folder)


def read_results(folder: str | Path, benchmark: str) -> Results:
    """Those of a training run, to which `record` adds."""
    results = Results.load(Path(folder))
    if results is None or results.benchmark != benchmark:
        raise ValueError(f"`record` adds to the results of a training run on {benchmark}; '{folder}' has none.")
    return results


# ---- the printed table ---------------------------------------------------------------------------------------------


def format_scores(document: dict[str, Any]) -> str:
    """The scores as tables to read."""
    title = f"{document['benchmark']} {document['split']}, {document['num_queries']:,} queries"
    if document["num_left_out"]:
        title += f" without {document['num_left_out']:,} whose videos are missing or cannot be read"
    scores = document.get("scores")
    if scores is None:
        return f"{title}: no ground truth\n"
    tables = [title]
    if "full" in scores:
        tables.append(_table("moments", {name: _moment_columns(scores[name]) for name in RANGES}))
        lengths = {
            bin_: {"queries": v["queries"], "mAP": v["MR-mAP"]} for bin_, v in scores["by_query_length"].items()
        }
        tables.append(_table("words", lengths))
    if "parts" in document:
        tables.append(_table("queries", document["parts"]))
    levels = {label: scores[key] for key, label in LEVELS.items() if key in scores}
    if levels:
        columns = {label: {"mAP": part["HL-mAP"], "HIT@1": part["HL-Hit1"]} for label, part in levels.items()}
        tables.append(_table("highlights", columns))
    if set(scores) == {"brief"}:
        tables.append(_table("domain", {name.removeprefix("mAP-"): {"mAP": v} for name, v in scores["brief"].items()}))
    return "\n\n".join(tables) + "\n"


def _moment_columns(part: dict[str, Any]) -> dict[str, float | None]:
    columns = {f"R1@{level}": part["MR-R1"][level] for level in ("0.3", "0.5", "0.7")}
    columns |= {f"R5@{level}": part["MR-R5"][level] for level in ("0.5", "0.7")}
    columns |= {"mAP": part["MR-mAP"]["average"]}
    columns |= {f"mAP@{level}": part["MR-mAP"][level] for level in ("0.5", "0.75")}
    return columns | {"mIoU": part["MR-mIoU"]}


def _table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    """Rows of the same columns, numbers to the right; `-` where there is nothing to score."""
    header = [title, *next(iter(rows.values()))]
    lines = [header, *([name, *map(_cell, columns.values())] for name, columns in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


# ---- arguments -----------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(
        prog="run_evaluation.py",
        description="Score predictions, or a checkpoint, on a benchmark; print a table and write JSON.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--predictions", type=Path, metavar="FILE", help="predictions, one JSON object a line, may be .gz"
    )
    source.add_argument(
        "--model", metavar="NAME", help="checkpoint that makes the predictions: a folder or a Hub name"
    )
    parser.add_argument("--benchmark", required=True, choices=tuple(BENCHMARKS), help="benchmark")
    parser.add_argument("--split", default="val", help="split (default: val)")
    parser.add_argument("--domain", help="one domain of YouTube Highlights or TVSum (default: all)")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder of the annotation files")
    parser.add_argument("--data-file", type=Path, metavar="FILE", help="this annotation file instead")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="malformed annotations: stop, or leave them out and count them (default: raise)",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the scores as JSON")
    parser.add_argument(
        "--match-reference-code",
        action="store_true",
        help="refuse, drop or copy what the public evaluation code refuses, drops or copies",
    )
    parser.add_argument(
        "--shared-queries-only", action="store_true", help="score only the queries that have a prediction"
    )
    parser.add_argument(
        "--submission", type=Path, metavar="DIR", help="also write files for the QVHighlights server to this folder"
    )
    _add_model_arguments(parser.add_argument_group("with --model"))
    return parser


def _add_model_arguments(group: Any) -> None:
    group.add_argument("--video-dir", type=Path, metavar="DIR", help="folder of the videos")
    group.add_argument("--features", type=Path, metavar="DIR", help="feature cache instead of videos")
    group.add_argument(
        "--missing-videos",
        choices=("error", "skip"),
        default="error",
        help="videos that are missing or cannot be read: stop, or leave their queries out and count them (default: error)",
    )
    group.add_argument(
        "--record", action="store_true", help="add the scores to the results and the card of the checkpoint, a folder"
    )
    group.add_argument(
        "--save-predictions", type=Path, metavar="FILE", help="write the predictions, one object a line"
    )
    group.add_argument("--backbone", metavar="NAME", help="CLIP instead of the one that the checkpoint names")
    group.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["evaluate", "format_scores", "get_predictions", "main", "make_parser", "score_parts"]
