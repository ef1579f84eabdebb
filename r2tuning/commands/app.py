"""`r2tuning app`: serves a page for the browser that finds moments in videos."""

import argparse
import functools

import torch

from r2tuning.app.launch import launch_app
from r2tuning.checks import choose_device
from r2tuning.commands.shared import check_model_options, load_pipeline
from r2tuning.terminal import report
from r2tuning_cli.programs import option_names


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_app, args), prefix, option_names("app"))


def _app(args: argparse.Namespace) -> int:
    check_model_options(args)
    library = None
    if args.library is not None:
        from r2tuning.library.library import Library  # needs the extra `library`

        library = Library.open(args.library, device=choose_device(args.device), dtype=getattr(torch, args.dtype))
    has_model = library is not None and args.model is None
    pipe = None if has_model else load_pipeline(args)
    launch_app(
        pipe,
        library=library,
        host=args.host,
        port=args.port,
        share=args.share,
        max_upload_mb=args.max_upload / 1e6,
        max_duration_sec=args.max_duration,
    )
    return 0


__all__ = ["run"]
