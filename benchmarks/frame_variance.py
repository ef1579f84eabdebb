"""How different the frames of a video still are after the R2 block, for 1 to 6 temporal layers, before any training.

python -m benchmarks.frame_variance DATA --backbone CLIP

Prints the share of the squared length of frame vectors that is variance between the frames of a video, in %, where they
enter the first temporal layer and where they leave the last one: the mean over videos and initialisations.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from benchmarks.measurement import print_report
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding, R2TuningProcessor
from r2tuning.training.config import read_preset


DEPTHS = range(1, 7)


def main() -> None:
    """Measure every depth, print JSON."""
    args = make_parser().parse_args()
    queries = read_first_queries(args.data, args.videos)
    paths = [str(args.data / "videos" / f"{video}.mp4") for video in queries]
    clip = CLIPModel.from_pretrained(args.backbone)
    image_processor = CLIPImageProcessor.from_pretrained(args.backbone)
    tokenizer = CLIPTokenizer.from_pretrained(args.backbone)
    inputs = R2TuningProcessor(image_processor, tokenizer, fps=args.fps)(paths, list(queries.values()))
    found = {}
    for layers in DEPTHS:
        entering, leaving = [], []
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            enter, leave = measure(make_model(clip, layers), inputs)
            entering.append(enter)
            leaving.append(leave)
        found[layers] = {"enter": percent(entering), "leave": percent(leaving)}
    print_report({"share_of_difference_%": found})


def read_first_queries(data: Path, count: int) -> dict[str, str]:
    """The first query of each of the first `count` validation videos, by video."""
    queries: dict[str, str] = {}
    for line in (data / "moving_shapes_val.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        queries.setdefault(row["vid"], row["query"])
    return dict(list(queries.items())[:count])


def percent(shares: list[float]) -> float:
    """Mean in percent, to two digits."""
    return float(f"{100 * statistics.mean(shares):.2g}")


def make_model(clip: CLIPModel, layers: int) -> R2TuningForVideoGrounding:
    """An untrained model with the preset's settings."""
    preset = read_preset("moving_shapes")["model"]
    fields = {name: preset[name] for name in ("hidden_size", "dropout", "initial_pooling_scale")}
    config = R2TuningConfig(
        vision_config=clip.config.vision_config,
        text_config=clip.config.text_config,
        num_temporal_layers=layers,
        **fields,
    )
    model = R2TuningForVideoGrounding(config)
    model.copy_backbone(clip.vision_model, clip.text_model)
    return model.eval()


@torch.inference_mode()
def measure(model: R2TuningForVideoGrounding, inputs: dict[str, Any]) -> tuple[float, float]:
    """Shares at the entry of the first temporal layer in the first step, and at the exit of the last in the last step."""
    entering: list[torch.Tensor] = []
    leaving: list[torch.Tensor] = []

    def enter(_: nn.Module, layer_inputs: tuple[torch.Tensor, ...]) -> None:
        entering.append(layer_inputs[0])

    def leave(_: nn.Module, layer_inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        leaving.append(output)

    layers = model.r2_block.steps[0].temporal_layers
    hooks = [layers[0].register_forward_pre_hook(enter), layers[-1].register_forward_hook(leave)]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    mask = inputs["frame_mask"].bool()
    return share_of_variance(entering[0], mask), share_of_variance(leaving[-1], mask)


def share_of_variance(frames: torch.Tensor, mask: torch.Tensor) -> float:
    """Mean over videos of the variance between frames divided by their mean squared length.

    Args:
        frames: `(batch, num_frames, hidden)`.
        mask: `(batch, num_frames)`, `True` = real.
    """
    shares = []
    for vectors, real in zip(frames, mask, strict=True):
        vectors = vectors[real]  # (num_real_frames, hidden)
        variance = (vectors - vectors.mean(dim=0)).square().sum(dim=1).mean()
        shares.append((variance / vectors.square().sum(dim=1).mean()).item())
    return statistics.mean(shares)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="folder that `python -m dataset_scripts.moving_shapes` wrote"
    )
    parser.add_argument("--backbone", required=True, help="CLIP below the block")
    parser.add_argument("--fps", type=float, default=0.5, help="frames per second (default: 0.5)")
    parser.add_argument("--videos", type=int, default=8, help="validation videos (default: 8)")
    parser.add_argument("--seeds", type=int, default=3, help="random initialisations (default: 3)")
    return parser


if __name__ == "__main__":
    main()
