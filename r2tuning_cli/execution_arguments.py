"""Arguments of the commands whose work several processes or machines may share, and their help texts."""

import argparse
import os

from .argument_types import positive_integer


def add_execution_arguments(group: argparse._ActionsContainer) -> None:
    """Where the work runs; the parser must have `--device` too."""
    group.add_argument(
        "--num-processes",
        type=positive_integer,
        default=1,
        metavar="N",
        help="processes that share the work (default: 1). They are distributed over the GPUs; use several for each, since "
        "reading videos takes longer than the backbone on a GPU. On a CPU they share its cores",
    )
    group.add_argument(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="run the processes on this machine, or as actors of Ray on one or more machines (default: local); ray needs "
        '`pip install "r2tuning[ray]"`',
    )
    group.add_argument(
        "--ray-address",
        type=_host_and_port,
        metavar="HOST:PORT",
        help="address of a running Ray cluster, as printed by `ray start --head` (default: start Ray on this machine "
        "until the work is done); all machines must see the same files under the same paths",
    )


def check_execution(args: argparse.Namespace) -> None:
    """Refuse options of `add_execution_arguments` that do not go together.

    Raises:
        ValueError: They do not.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("Start one process, without torchrun or accelerate: `num_processes` starts the others.")
    if args.executor == "local":
        if args.ray_address is not None:
            raise ValueError("`ray_address` needs `executor` ray.")
    elif args.device not in (None, "cpu", "cuda"):
        raise ValueError(
            f"`executor` ray needs `device` cpu or cuda, got '{args.device}': Ray decides which GPU a process uses."
        )


def _host_and_port(text: str) -> str:
    """An address such as "10.0.0.1:6379"."""
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, got '{text}'")
    return text


__all__ = ["add_execution_arguments", "check_execution"]
