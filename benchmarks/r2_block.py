"""Speed of our R2 block against a plain transcription of its equations, and against the floor of its products.

python -m benchmarks.r2_block [--frames 75] [--text-length 20] [--batch 8] [--device cpu]
"""

import argparse

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measurement import Function, count_gigaflop, measure_against_floor, print_report
from modeling_r2tuning import R2TuningConfig
from modeling_r2tuning.block_r2tuning import R2Block


def plain_r2_block(block: R2Block, video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The default R2 block as its equations read, for a batch without padding.

    Args:
        block: The weights.
        video: `(batch, num_frames, num_layers, num_tokens, vision_hidden)`, in half precision as cached.
        text: `(batch, text_length, num_layers, text_hidden)`.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames, hidden)`.
    """
    config, step = block.config, block.steps[0]
    video, text = video.float(), text.float()
    num_frames, num_layers, num_tokens = video.shape[1:4]
    endpoints = frame_endpoints(num_frames).to(video.device)[None, :, None]
    endpoints = endpoints.expand(len(video), -1, num_tokens, -1)  # (batch, num_frames, num_tokens, 2)
    code = time_code(num_frames, config.hidden_size).to(video.device)

    def project(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = mlp.input_linear(F.dropout(mlp.input_norm(x), config.dropout, block.training))
        return mlp.output_linear(F.dropout(mlp.hidden_norm(x.relu()), config.dropout, block.training))

    last = None
    for layer in reversed(range(num_layers)):
        v = project(step.video_projection, torch.cat([video[:, :, layer], endpoints], dim=-1))
        q = project(step.text_projection, text[:, :, layer])
        # Query-guided spatial pooling: each word attends to the tokens of each frame.
        attention = torch.einsum("blc,btpc->btlp", step.text_query(q), step.video_key(v)) / config.hidden_size**0.5
        pooled = torch.einsum("btlp,btpc->btlc", attention.softmax(-1), v) + q[:, None]
        h = v[:, :, 0] + block.scale[layer].tanh() * pooled.amax(dim=2)  # (batch, num_frames, hidden)
        if last is not None:
            gate = block.gate[layer].sigmoid()
            h = gate * h + (1 - gate) * last
        temporal = step.temporal_layers[0]
        h = temporal.cross_attention_norm(
            h + temporal.drop_path(plain_attention(temporal.cross_attention, h + code, q, q))
        )
        h = temporal.self_attention_norm(
            h + temporal.drop_path(plain_attention(temporal.self_attention, h + code, h + code, h))
        )
        update = temporal.feed_forward.fc2(F.relu(temporal.feed_forward.fc1(h)))
        last = temporal.feed_forward_norm(h + temporal.drop_path(update))
    return last


def frame_endpoints(num_frames: int) -> torch.Tensor:
    """Relative start and end of each frame, `(num_frames, 2)`."""
    index = torch.arange(num_frames)
    return torch.stack([index / num_frames, (index + 1) / num_frames], dim=-1)


def time_code(num_frames: int, hidden: int) -> torch.Tensor:
    """Sine and cosine code of each frame's relative position, `(num_frames, hidden)`."""
    angle = (torch.arange(num_frames) + 1) / (num_frames + 1e-6) * 2 * torch.pi
    channel = torch.arange(hidden)
    angle = angle[:, None] / 10000 ** (2 * (channel // 2) / hidden)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


def plain_attention(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Multi-head attention written out; `(batch, length, hidden)` each."""
    heads = module.num_heads

    def split_heads(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (batch, heads, length, head_size)

    query = split_heads(module.q_proj(query))
    key = split_heads(module.k_proj(key))
    value = split_heads(module.v_proj(value))
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    return module.out_proj((weights @ value).transpose(1, 2).flatten(2))


def our_r2_block(block: R2Block, video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The same by `R2Block`."""
    frame_mask = torch.ones(video.shape[:2], dtype=torch.bool, device=video.device)
    text_mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    video_states = block.project_video(video, frame_mask)
    return block(video_states, block.project_text(text), frame_mask, text_mask).video_features


IMPLEMENTATIONS = {"plain": plain_r2_block, "ours": our_r2_block}


def make_inputs(
    batch: int, num_frames: int, text_length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random hidden states of ViT-B/32, in half precision as cached on disk."""
    video = torch.randn(batch, num_frames, 4, 50, 768, device=device).half()
    return video, torch.randn(batch, text_length, 4, 512, device=device).half()


def measure(
    block: R2Block, inputs: tuple[torch.Tensor, torch.Tensor], repeats: int, backward: bool
) -> dict[str, float]:
    """Seconds of both implementations, their ratio, and the floor of the products without dropout."""
    device = inputs[0].device

    def make_run(name: str) -> Function:
        def run() -> None:
            block.zero_grad()
            with torch.set_grad_enabled(backward):
                features = IMPLEMENTATIONS[name](block, *inputs)
            if backward:
                features.square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    runs = {name: make_run(name) for name in IMPLEMENTATIONS}
    training = block.training
    block.eval()  # dropout adds no products to the floor
    gigaflop = count_gigaflop(runs["ours"])
    block.train(training)
    return measure_against_floor(runs, gigaflop, repeats)


def main() -> None:
    """Measure forward of one query, and forward + backward of a training step with and without dropout."""
    args = make_parser().parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    block = R2Block(R2TuningConfig()).to(device)
    one = make_inputs(1, args.frames, args.text_length, device)
    several = make_inputs(args.batch, args.frames, args.text_length, device)
    block.eval()
    with torch.no_grad():
        difference = (plain_r2_block(block, *one) - our_r2_block(block, *one)).abs().max().item()
    report = {
        "forward": measure(block, one, args.repeats, backward=False),
        "training step, dropout 0": measure(block, several, args.repeats, backward=True),
    }
    block.train()
    report["training step, dropout 0.5"] = measure(block, several, args.repeats, backward=True)
    settings = {**vars(args), "threads": torch.get_num_threads()}
    print_report({**report, "largest difference": difference, "settings": settings})


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=75, help="frames of a video (default: 75)")
    parser.add_argument("--text-length", type=int, default=20, help="tokens of a query (default: 20)")
    parser.add_argument("--batch", type=int, default=8, help="videos of a training step (default: 8)")
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions (default: 7)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    return parser


if __name__ == "__main__":
    main()
