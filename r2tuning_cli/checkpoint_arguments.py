"""Arguments of `r2tuning convert`, `export-onnx` and `push`, and their help texts."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset_scripts.benchmarks import ORIGINAL_REPOSITORY, released_benchmarks

from .argument_types import add_renamed_clip_option, repository_name
from .defaults import DEFAULT_BACKBONE, PACKAGED
from .grounding_arguments import add_benchmark_arguments, benchmark_table


CONVERT_DESCRIPTION = """\
Convert a checkpoint of the authors' code to a folder that `r2tuning ground --model` and transformers load, and print
its path. The backbone's weights are not copied: the folder refers to them.

With --all every released checkpoint is converted to a folder of its own, with a model card that holds the results
published by the authors. Failures are listed at the end; run the command again to retry them.
"""
CONVERT_USAGE = """\
r2tuning convert ORIGINAL.pth OUT --benchmark NAME [--domain NAME] [--backbone DIR_OR_REPO]
       r2tuning convert --all OUT [--source DIR] [--backbone DIR_OR_REPO] [--push-to ORG [--private]]"""
CONVERT_EPILOG = f"""\
{benchmark_table()}

examples:
  r2tuning convert r2_tuning_tvsum_bk.pth tvsum_bk --benchmark tvsum --domain BK
  r2tuning convert --all released --push-to org
"""
EXPORT_ONNX_DESCRIPTION = """\
Export a checkpoint to a folder that answers queries without PyTorch, and print its path. The folder holds three ONNX
graphs (frames.onnx, text.onnx, heads.onnx), settings.json, tokenizer.json, and run.py with its video decoder:

  pip install onnxruntime tokenizers av numpy
  python OUT/run.py VIDEO QUERY

Its answers equal those of `r2tuning ground`. Each graph is compared with the checkpoint before the folder appears.
Methods whose frames see each other in the image encoder (vop, st_adapter) cannot be exported; the adapters of lora are
merged into the weights.
"""
EXPORT_ONNX_EPILOG = """\
examples:
  r2tuning export-onnx runs/qvhighlights/best exported
  r2tuning export-onnx packaged exported --int8-text
"""
PUSH_DESCRIPTION = """\
Publish a checkpoint on the Hugging Face Hub: model, processor, code, model card, results and the handler of Inference
Endpoints in one commit, to a new or an existing repository. Prints its address.

With --space the web app is published as a Space, which holds this package as a wheel. Its model is a checkpoint in a
folder, which goes into the Space, a name on the Hub, or by default the model that comes with the package. With --output
the Space is written to a folder, where `pip install -r requirements.txt` and `python app.py` run it.

The card is made from the checkpoint's settings and from `results.json`, which training and `r2tuning convert --all`
write. Text that you added to `README.md` is kept, in the folder and on the Hub: only the marked parts and the metadata
are updated. Files that others added to the repository stay, and so do LICENSE, handler.py and requirements.txt as edited
there. Nothing but the checkpoint is uploaded: no optimizer state, no videos, no logs. Log in with `hf auth login` first,
or set HF_TOKEN to a token with write access.
"""
PUSH_USAGE = """\
r2tuning push DIR ORG/NAME [--private] [--backbone REPO]
       r2tuning push --space ORG/NAME [DIR] [--output OUT] [--private] [--backbone REPO]"""
PUSH_EPILOG = """\
examples:
  r2tuning push runs/qvhighlights/best org/r2tuning-qvhl --private
  r2tuning push --space org/find-moments org/r2tuning-qvhl
  r2tuning push --space org/find-moments --output space && cd space && python app.py
"""


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning convert`."""
    required = [
        parser.add_argument("original", metavar="ORIGINAL.pth", help="checkpoint of the authors' code"),
        parser.add_argument("output", metavar="OUT", type=Path, help="output folder, new or empty"),
        add_benchmark_arguments(parser, required=True),
    ]
    parser.add_argument(
        "--backbone",
        metavar="DIR_OR_REPO",
        help=f"the CLIP that the checkpoint was trained on (default: {DEFAULT_BACKBONE})",
    )
    add_renamed_clip_option(parser)
    num_released = sum(len(spec.released_checkpoints) for spec in released_benchmarks().values())
    group = parser.add_argument_group("all released checkpoints")
    group.add_argument(
        "--all",
        action=_InPlaceOf,
        replaced=required,
        type=Path,
        metavar="OUT",
        help=f"convert the {num_released} released checkpoints to folders in OUT: r2tuning-qvhl, r2tuning-charades, "
        "r2tuning-tvsum-bk ...",
    )
    group.add_argument(
        "--source",
        metavar="DIR",
        help="folder that holds the .pth files under the authors' names (default: fetched from "
        f"{ORIGINAL_REPOSITORY})",
    )
    group.add_argument(
        "--push-to", metavar="ORG", help="publish each on the Hub in this organisation, as ORG/r2tuning-qvhl ..."
    )
    group.add_argument("--private", action="store_true", help="make the repositories private")


def check_convert(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if args.all is None:
        for name in ("source", "push_to", "private"):
            if getattr(args, name):
                raise ValueError(f"`{name}` goes with `all` (see `r2tuning convert --help`)")
    elif (args.original, args.benchmark, args.domain) != (None, None, None):
        raise ValueError("`all` converts every checkpoint: leave out ORIGINAL.pth, `benchmark` and `domain`")


class _InPlaceOf(argparse.Action):
    """An option that replaces required arguments."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, replaced: list[argparse.Action], **options: Any):
        super().__init__(option_strings, dest, **options)
        self.replaced = replaced

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value; the others are then optional."""
        setattr(namespace, self.dest, values)
        for action in self.replaced:
            action.required = False


def add_export_onnx_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning export-onnx`."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help=f"a folder or a name on the Hub; {PACKAGED} = the model that comes with the package",
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="output folder, new or empty")
    parser.add_argument(
        "--int8-text",
        action="store_true",
        help="store the weights of the text encoder in 8 bits; answers then differ slightly from the checkpoint's",
    )


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `r2tuning push`."""
    required = [
        parser.add_argument(
            "folder",
            metavar="DIR",
            help="a checkpoint, such as the folder `best` of a training run; with --space also a name on the Hub or "
            f"{PACKAGED}, the model that comes with the package and the default",
        ),
        parser.add_argument(
            "repository",
            type=repository_name,
            metavar="ORG/NAME",
            help="repository on the Hub, created if it does not exist",
        ),
    ]
    parser.add_argument(
        "--space",
        action=_InPlaceOf,
        replaced=required,
        type=repository_name,
        metavar="ORG/NAME",
        help="publish the web app as this Space, created if it does not exist",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="OUT",
        help="with --space: write the Space to this folder, new or empty, and publish nothing",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="create the repository as a private one; an existing one must be private",
    )
    parser.add_argument(
        "--backbone",
        metavar="REPO",
        help="name on the Hub of the backbone that the checkpoint refers to, if it refers to a local folder",
    )
    add_renamed_clip_option(parser)


def check_push(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if args.space is None and args.output is not None:
        raise ValueError("`output` goes with `space` (see `r2tuning push --help`)")
    if args.space is not None and args.repository is not None:
        raise ValueError(f"`space` names the repository: leave out '{args.repository}'")
    if args.output is not None and args.private:
        raise ValueError("`private` goes with publishing: leave it out with `output`")


__all__ = [
    "CONVERT_DESCRIPTION",
    "CONVERT_EPILOG",
    "CONVERT_USAGE",
    "EXPORT_ONNX_DESCRIPTION",
    "EXPORT_ONNX_EPILOG",
    "PUSH_DESCRIPTION",
    "PUSH_EPILOG",
    "PUSH_USAGE",
    "add_convert_arguments",
    "add_export_onnx_arguments",
    "add_push_arguments",
    "check_convert",
    "check_push",
]
