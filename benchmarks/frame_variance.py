"""How alike the frames of a video are behind the R2 block, for 1 to 6 temporal layers, before anything is learned.

python benchmarks/frames_alike.py DATA --backbone CLIP

Printed is the share of the squared length of frame vectors that is difference between the frames of a video, in %,
where they enter the first temporal layer and where they leave the last one: a mean over videos and random beginnings.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor


PRESET = Path(__file__).parents[1] / "train/presets/moving_shapes.json"


def main() -> None:
    """Measure every depth, print JSON."""
    args = make_parser().parse_args()
    first: dict[str, str] = {}
    for line in (args.data / "moving_shapes_val.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        first.setdefault(row["vid"], row["query"])
    videos = dict(list(first.items())[: args.videos])
    clip = CLIPModel.from_pretrained(args.backbone)
    parts = (CLIPImageProcessor.from_pretrained(args.backbone), CLIPTokenizer.from_pretrained(args.backbone))
    paths = [str(args.data / "videos" / f"{video}.mp4") for video in videos]
    inputs = R2TuningProcessor(*parts, fps=args.fps)(paths, list(videos.values()))
    found = {}
    for layers in range(1, 7):
        shares = []
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            shares.append(measure(make_model(clip, layers), inputs))
        enter, leave = (100 * statistics.mean(each) for each in zip(*shares, strict=True))
        found[layers] = {"enter": float(f"{enter:.2g}"), "leave": float(f"{leave:.2g}")}
    document = {"command": shlex.join(["python", *sys.argv]), "share_of_difference_%": found}
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def make_model(clip: CLIPModel, layers: int) -> R2TuningForVideoGrounding:
    """A model with the preset's settings that has learned nothing."""
    preset = json.loads(PRESET.read_text(encoding="utf-8"))["model"]
    fields = {name: preset[name] for name in ("hidden_size", "dropout", "initial_pooling_scale")}
    towers = {"vision_config": clip.config.vision_config, "text_config": clip.config.text_config}
    model = R2TuningForVideoGrounding(R2TuningConfig(**towers, **fields, num_temporal_layers=layers))
    model.copy_backbone(clip.vision_model, clip.text_model)
    return model.eval()


@torch.inference_mode()
def measure(model: R2TuningForVideoGrounding, inputs: dict) -> tuple[float, float]:
    """Shares where frames enter the first temporal layer of the first step and where they leave the last of the last."""
    entering, leaving = [], []
    layers = model.r2_block.steps[0].temporal_layers
    hooks = [
        layers[0].register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0])),
        layers[-1].register_forward_hook(lambda _, inputs, output: leaving.append(output)),
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    mask = inputs["frame_mask"].bool()
    return share_of_difference(entering[0], mask), share_of_difference(leaving[-1], mask)


def share_of_difference(frames: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean over videos of the variance between frames over their mean squared length; `frames (batch, n, hidden)`."""
    shares = []
    for vectors, real in zip(frames, mask, strict=True):
        vectors = vectors[real]
        difference = (vectors - vectors.mean(dim=0)).square().sum(dim=1).mean()
        shares.append((difference / vectors.square().sum(dim=1).mean()).item())
    return statistics.mean(shares)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="folder that `python -m dataset_scripts.moving_shapes` wrote"
    )
    parser.add_argument("--backbone", required=True, help="CLIP that the block stands on")
    parser.add_argument("--fps", type=float, default=0.5, help="frames per second (default: 0.5)")
    parser.add_argument("--videos", type=int, default=8, help="videos of val (default: 8)")
    parser.add_argument("--seeds", type=int, default=3, help="random beginnings (default: 3)")
    return parser


if __name__ == "__main__":
    main()
