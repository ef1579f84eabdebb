"""Memory of a training step from cached features, and the time that it takes beside its arithmetic.

python -m benchmarks.training_step [--batch 8] [--frames 75] [--words 20] [--repeats 20]

Memory is counted tensor by tensor, without weights: what autograd keeps between forward and backward, and the peak. The
time beside the arithmetic is Python, autograd and the launch of operations. It is what two batches of tiny videos take,
one with twice as many queries as the other, after the part that doubles is taken off; on a GPU the operations of a step
are launched in about this time.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measurement import print_report, time_in_turn
from benchmarks.memory import KeptForBackward, LiveTensors
from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from r2tuning.training.collate import GroundingCollator


NUM_TOKENS = 50  # of a frame: CLIP ViT-B/32
TINY_FRAMES, TINY_WORDS = 8, 4


class OperationCounter(TorchDispatchMode):
    """Counts the calls of torch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def make_model(dropout: float, **fields: Any) -> R2TuningForVideoGrounding:
    """A model with the default R2 block; its encoders, which cached features replace, are small."""
    config = R2TuningConfig(
        vision_config={"num_hidden_layers": 4}, text_config={"num_hidden_layers": 4}, dropout=dropout, **fields
    )
    return R2TuningForVideoGrounding(config).train()


def make_batch(config: R2TuningConfig, num_videos: int, num_frames: int, num_words: int) -> dict[str, Any]:
    """Random cached features of videos of equal length, one query each."""
    video_shape = (config.num_video_states, NUM_TOKENS, config.vision_config.hidden_size)
    text_shape = (config.num_text_states, config.text_config.hidden_size)
    examples = []
    for number in range(num_videos):
        saliency = torch.zeros(num_frames)
        saliency[num_frames // 2] = 1.0
        examples.append(
            {
                "draw": number,
                "video_id": str(number),
                "video_hidden_states": torch.randn(num_frames, *video_shape).half(),
                "text_hidden_states": torch.randn(num_words, *text_shape).half(),
                "saliency": saliency,
                "moments": torch.tensor([[0.0, num_frames / config.fps]]),
                "fps": config.fps,
                "duration_sec": num_frames / config.fps,
            }
        )
    return GroundingCollator(0)(examples)


def make_step(model: R2TuningForVideoGrounding, batch: dict[str, Any]) -> Callable[[], None]:
    """Forward and backward pass."""

    def step() -> None:
        model.zero_grad()
        model(**batch).loss.backward()

    return step


def count_memory(model: R2TuningForVideoGrounding, batch: dict[str, Any]) -> dict[str, float]:
    """Megabytes that are kept for the backward pass, and the peak of all tensors but weights and batch."""
    make_step(model, batch)()  # gradients are alive in every later step
    with KeptForBackward(model, batch) as kept:
        model(**batch)
    held = [*model.parameters(), *(value for value in batch.values() if isinstance(value, torch.Tensor))]
    held += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    with LiveTensors(held) as live:
        before = live.bytes
        model(**batch).loss.backward()
    return {"kept for backward, MB": kept.bytes / 1e6, "peak, MB": (live.peak - before) / 1e6}


def measure_overhead(repeats: int) -> dict[str, float]:
    """Seconds of two tiny batches, the part that does not grow with them, and the operators of a step."""
    model = make_model(0.5, hidden_size=32)
    steps = {}
    for num_videos in (2, 4):
        batch = make_batch(model.config, num_videos, TINY_FRAMES, TINY_WORDS)
        steps[f"seconds, {num_videos} queries"] = make_step(model, batch)
    seconds = {name: value.wall for name, value in time_in_turn(steps, repeats).items()}
    smaller, larger = seconds.values()
    with OperationCounter() as counter:
        next(iter(steps.values()))()
    return {**seconds, "seconds beside the arithmetic": 2 * smaller - larger, "operators": counter.count}


def main() -> None:
    """Measure and print."""
    args = make_parser().parse_args()
    torch.manual_seed(0)
    memory = {}
    for dropout in (0.0, 0.5):
        model = make_model(dropout)
        batch = make_batch(model.config, args.batch, args.frames, args.words)
        memory[f"dropout {dropout:g}"] = count_memory(model, batch)
    settings = {**vars(args), "threads": torch.get_num_threads()}
    print_report({"memory": memory, "overhead": measure_overhead(args.repeats), "settings": settings})


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--batch", type=int, default=8, help="queries of the step whose memory is counted (default: 8)"
    )
    parser.add_argument("--frames", type=int, default=75, help="frames of a video (default: 75)")
    parser.add_argument("--words", type=int, default=20, help="tokens of a query (default: 20)")
    parser.add_argument("--repeats", type=int, default=20, help="timed repetitions (default: 20)")
    return parser


if __name__ == "__main__":
    main()
