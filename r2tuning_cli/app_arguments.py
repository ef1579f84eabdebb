"""Arguments of `r2tuning app`, and its help texts."""

import argparse
from pathlib import Path

from .argument_types import byte_size, port_number, positive_number
from .grounding_arguments import add_model_arguments, benchmark_table
from .library_arguments import LIBRARY_PRECISIONS


APP_DESCRIPTION = """\
Serve a page for the browser: drop a video, type sentences, see and watch the moments that match, and download clips or an
edit list. Videos stay on this machine and are deleted when their page is closed. Only this machine reaches the page
unless --host or --share says otherwise: whoever reaches it may use it.
"""
APP_EPILOG = f"""\
{benchmark_table()}

examples:
  r2tuning app
  r2tuning app --model org/r2tuning-qvhl --library lib --port 8000
"""


def add_app_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning app`."""
    parser.add_argument(
        "--library",
        metavar="LIB",
        type=Path,
        help="also search this library, made by `r2tuning index`; without --model, its model answers about single videos too",
    )
    add_model_arguments(parser)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host", metavar="ADDRESS", help="address to listen on; 0.0.0.0 = all of this machine's (default: 127.0.0.1)"
    )
    group.add_argument(
        "--port", type=port_number, metavar="N", help="port to listen on (default: the first free one from 7860)"
    )
    group.add_argument(
        "--share", action="store_true", help="also open the page to the internet, by a tunnel of Gradio's"
    )
    group.add_argument(
        "--max-upload",
        type=byte_size,
        default=500 * 10**6,
        metavar="SIZE",
        help="largest video that is taken (default: 500MB); a number without a unit is in bytes",
    )
    group.add_argument(
        "--max-duration",
        type=positive_number,
        default=3600.0,
        metavar="SECONDS",
        help="longest video that is taken (default: 3600)",
    )


def check_app(args: argparse.Namespace) -> None:
    """Refuse arguments of `r2tuning app` that do not go together."""
    if args.library is not None and args.dtype not in LIBRARY_PRECISIONS:
        raise ValueError(f"`dtype` must be {' or '.join(LIBRARY_PRECISIONS)} with a library, got {args.dtype}.")


__all__ = ["APP_DESCRIPTION", "APP_EPILOG", "add_app_arguments", "check_app"]
