"""Speed of our R2 block against a plain transcription of its equations, as ratios within one run.

python benchmarks/r2_block.py [--frames 75] [--text-length 20] [--batch 8] [--device cpu]
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from modeling_r2tuning import R2TuningConfig
from modeling_r2tuning.block_r2tuning import R2Block


def plain_r2_block(block: R2Block, video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The default R2 block as its equations read, for a batch without padding: nothing folded, nothing shared.

    Args:
        block: The weights.
        video: `(batch, num_frames, num_layers, num_tokens, vision_hidden)`, in half precision as cached.
        text: `(batch, text_length, num_layers, text_hidden)`.

    Returns:
        `torch.Tensor` of shape `(batch, num_frames, hidden)`.
    """
    config, step, video, text = block.config, block.steps[0], video.float(), text.float()
    batch, num_frames, num_layers, num_tokens, _ = video.shape
    hidden, heads = config.hidden_size, config.num_attention_heads
    time_index = torch.arange(num_frames, device=video.device)
    endpoints = torch.stack([time_index / num_frames, (time_index + 1) / num_frames], dim=-1)
    endpoints = endpoints[None, :, None].expand(batch, -1, num_tokens, -1)
    angle = (time_index + 1) / (num_frames + 1e-6) * 2 * torch.pi
    channel = torch.arange(hidden, device=video.device)
    angle = angle[:, None] / 10000 ** (2 * (channel // 2) / hidden)
    code = torch.where(channel % 2 == 0, angle.sin(), angle.cos())

    def project(mlp, x):
        x = mlp.input_linear(F.dropout(mlp.input_norm(x), config.dropout, block.training))
        return mlp.output_linear(F.dropout(mlp.hidden_norm(x.relu()), config.dropout, block.training))

    def attend(module, query, key, value):
        query, key, value = (
            projection(x).reshape(batch, -1, heads, hidden // heads).transpose(1, 2)
            for projection, x in ((module.q_proj, query), (module.k_proj, key), (module.v_proj, value))
        )
        weights = (query @ key.mT / (hidden // heads) ** 0.5).softmax(-1)
        return module.out_proj((weights @ value).transpose(1, 2).reshape(batch, -1, hidden))

    last = None
    for layer in reversed(range(num_layers)):
        v = project(step.video_projection, torch.cat([video[:, :, layer], endpoints], dim=-1))
        q = project(step.text_projection, text[:, :, layer])
        attention = torch.einsum("blc,btpc->btlp", step.text_query(q), step.video_key(v)) / hidden**0.5
        pooled = torch.einsum("btlp,btpc->btlc", attention.softmax(-1), v) + q[:, None]
        h = v[:, :, 0] + block.scale[layer].tanh() * pooled.amax(dim=2)
        if last is not None:
            gate = block.gate[layer].sigmoid()
            h = gate * h + (1 - gate) * last
        tem = step.temporal_layers[0]
        h = tem.cross_attention_norm(h + tem.drop_path(attend(tem.cross_attention, h + code, q, q)))
        h = tem.self_attention_norm(h + tem.drop_path(attend(tem.self_attention, h + code, h + code, h)))
        last = tem.feed_forward_norm(h + tem.drop_path(tem.feed_forward.fc2(F.relu(tem.feed_forward.fc1(h)))))
    return last


def our_r2_block(block: R2Block, video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The same by `R2Block`."""
    frame_mask, text_mask = (torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) for x in (video, text))
    return block(
        block.project_video(video, frame_mask), block.project_text(text), frame_mask, text_mask
    ).video_features


def measure(functions: dict, repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each function, run in turn so that a slow minute hits all alike."""
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main():
    """Measure forward and forward + backward, with and without dropout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=75, help="frames of a video (default: 75)")
    parser.add_argument("--text-length", type=int, default=20, help="tokens of a query (default: 20)")
    parser.add_argument("--batch", type=int, default=4, help="videos of a training step (default: 4)")
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions (default: 7)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    config = R2TuningConfig()
    block = R2Block(config).to(device)

    def inputs(batch):
        video = torch.randn(batch, args.frames, 4, 50, 768, device=device).half()  # as cached on disk
        return video, torch.randn(batch, args.text_length, 4, 512, device=device).half()

    def step(function, data):
        def run():
            block.zero_grad()
            function(block, *data).square().mean().backward()

        return run

    functions = {"plain": plain_r2_block, "ours": our_r2_block}
    rows = {}
    block.eval()
    data = inputs(1)
    with torch.no_grad():
        difference = (plain_r2_block(block, *data) - our_r2_block(block, *data)).abs().max().item()
        rows["forward"] = measure(
            {k: (lambda f=f: f(block, *data)) for k, f in functions.items()}, args.repeats, device
        )
    data = inputs(args.batch)
    rows["forward+backward"] = measure({k: step(f, data) for k, f in functions.items()}, args.repeats, device)
    block.train()
    rows["forward+backward, dropout"] = measure({k: step(f, data) for k, f in functions.items()}, args.repeats, device)
    report = {name: {**row, "plain / ours": row["plain"] / row["ours"]} for name, row in rows.items()}
    report = {"command": " ".join(sys.argv), **report, "largest difference": difference, "settings": vars(args)}
    print(json.dumps(report, indent=2))  # noqa: T201 (a script's result)


if __name__ == "__main__":
    main()
