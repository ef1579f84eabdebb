"""`r2tuning push`: publishes a checkpoint, or the web app as a Space, on the Hub."""

import argparse
import functools
import sys

from r2tuning.hub.push import push_checkpoint
from r2tuning.hub.space import push_space, write_space
from r2tuning.terminal import report, write_line
from r2tuning_cli.defaults import PACKAGED
from r2tuning_cli.programs import option_names


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_push, args), prefix, option_names("push"), (TypeError,))


def _push(args: argparse.Namespace) -> int:
    if args.space is None:
        place = push_checkpoint(args.folder, args.repository, private=args.private, backbone=args.backbone)
    else:
        place = _make_space(args)
    write_line(sys.stdout, place)
    return 0


def _make_space(args: argparse.Namespace) -> str:
    """Write or publish a Space; return its folder or its address."""
    model = args.folder or PACKAGED
    if args.output is None:
        return push_space(args.space, model, private=args.private, backbone=args.backbone)
    write_space(args.output, model, backbone=args.backbone)
    return str(args.output)


__all__ = ["run"]
