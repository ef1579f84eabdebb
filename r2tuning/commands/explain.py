"""`r2tuning explain`: draws how a model arrives at its answer to a query."""

import argparse
import functools
import logging
import sys
from pathlib import Path

from modeling_r2tuning.files_r2tuning import check_replaceable
from modeling_r2tuning.processing_r2tuning import as_text_list
from r2tuning.commands.shared import check_model_options, load_pipeline, open_video
from r2tuning.terminal import report, write_line
from r2tuning.visualization.explain import (
    check_word_attention,
    layer_similarity,
    plot_layer_similarity,
    plot_word_attention,
    word_attention,
)
from r2tuning.visualization.style import format_probability, import_figure, save_figure
from r2tuning.visualization.timeline import plot_grounding
from r2tuning_cli.programs import option_names


logger = logging.getLogger(__name__)


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_explain, args), prefix, option_names("explain"), (TypeError,))


def _explain(args: argparse.Namespace) -> int:
    as_text_list([args.query], "QUERY")  # refuses an empty one
    check_model_options(args)
    import_figure()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("answer", "attention", "similarity"):
        check_replaceable(_page_path(args.out, name, 1), args.video)
    with open_video(args.video, args) as video:
        pipe = load_pipeline(args)
        check_word_attention(pipe.model)
        subject = (pipe.model, pipe.processor, video, args.query)
        answer = pipe(video, query=args.query)
        if "probability" in answer:
            probability = format_probability(answer["probability"])
            logger.info("the probability that anything in the video matches the query is %s", probability)
        figures = {
            "answer": [plot_grounding(answer, video)],
            "attention": plot_word_attention(word_attention(*subject)),
            "similarity": [plot_layer_similarity(layer_similarity(*subject))],
        }
    written = set()
    for name, pages in figures.items():
        for number, page in enumerate(pages, 1):
            path = _page_path(args.out, name, number)
            save_figure(page, path)
            written.add(path)
            write_line(sys.stdout, str(path))
    for path in sorted({*args.out.glob("attention_*.png")} - written):
        logger.warning("'%s' was there before and is not about this query.", path)
    return 0


def _page_path(folder: Path, name: str, number: int) -> Path:
    """File of a page: the first has no number."""
    return folder / (f"{name}.png" if number == 1 else f"{name}_{number}.png")


__all__ = ["run"]
