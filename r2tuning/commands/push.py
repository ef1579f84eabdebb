"""`r2tuning push`: publishes a checkpoint on the Hub."""

import argparse
import functools
import sys

from r2tuning.hub.push import push_checkpoint
from r2tuning.terminal import report, write_line
from r2tuning_cli.programs import option_names


def run(args: argparse.Namespace, prefix: str = "r2tuning") -> int:
    """Run the command; returns its exit status."""
    return report(functools.partial(_push, args), prefix, option_names("push"), (TypeError,))


def _push(args: argparse.Namespace) -> int:
    address = push_checkpoint(args.folder, args.repository, private=args.private, backbone=args.backbone)
    write_line(sys.stdout, address)
    return 0


__all__ = ["run"]
