"""Run in each of two processes: losses and gradients of a batch, computed in one process and divided among both; then a
training run that is stopped and resumed.

Arguments: a file for the differences as JSON, and the command line of `train/run.py`.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from model_checks import make_inputs, make_labels
from tiny_models import TINY, TINY_TEXT, TINY_VISION

from modeling_r2tuning import R2TuningConfig, R2TuningForVideoGrounding
from r2tuning.training import loop
from r2tuning.training.run import main


FRAMES, WORDS = (13, 3, 20, 6, 9), (6, 4, 9, 2, 5)
# The first process has two points that are positive, the other one many.
MOMENTS = ([[10.0, 11.0]], [[0.4, 0.6]], [[2.0, 5.0], [8.0, 20.0]], [[1.0, 4.0]], [[0.0, 9.0]])
SHARES = (slice(0, 2), slice(2, 5))  # of unequal size, with other longest videos
WITHOUT_MOMENTS = {"use_moment_head": False, "use_temporal_endpoints": False, "strides": [1]}
EXISTENCE = {"use_existence_head": True}
# Fields of the configuration, and the rows of the batch that are absent queries.
CASES = {
    "released": ({}, ()),
    "paper": ({"loss_recipe": "paper"}, ()),
    "released without moments": (WITHOUT_MOMENTS, ()),
    "paper without moments": ({"loss_recipe": "paper", **WITHOUT_MOMENTS}, ()),
    "all present": (EXISTENCE, ()),
    "absent in both processes": (EXISTENCE, (1, 3)),
    "only absent in the first process": ({"loss_recipe": "paper", **EXISTENCE}, (0, 1)),
    "only absent in the second process": (EXISTENCE, (0, 2, 3, 4)),
    "all absent": ({"loss_recipe": "paper", **EXISTENCE}, (0, 1, 2, 3, 4)),
    "all absent without existence head": ({}, (0, 1, 2, 3, 4)),
}


def make_model(fields):
    torch.manual_seed(0)
    sizes = {"vision_config": TINY_VISION, "text_config": TINY_TEXT, **TINY, "dropout": 0.0, "drop_path": 0.0}
    model = R2TuningForVideoGrounding(R2TuningConfig(**{**sizes, **fields}))
    for parameter in (model.r2_block.scale, model.r2_block.gate, model.grounding_head.level_scale):
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model.train()


def make_batch(config, share, absent):
    """Rows of a batch, padded no more than they need; the queries of the rows `absent` have no moments."""
    batch = {**make_inputs(config, FRAMES, WORDS, cached=True), **make_labels(config, FRAMES, fps=1.0)}
    if config.use_moment_head:
        moments = [torch.tensor([] if row in absent else each) for row, each in enumerate(MOMENTS)]
        batch |= {"moments": moments, "fps": torch.ones(len(MOMENTS))}
    batch = {name: value[share] for name, value in batch.items()}
    lengths = {"frame_mask": ("video_hidden_states", "saliency"), "attention_mask": ("text_hidden_states",)}
    for mask, names in lengths.items():
        longest = int(batch[mask].sum(dim=1).max())
        for name in (mask, *names):
            batch[name] = batch[name][:, :longest]
    return batch


def compute(model, batch, backward):
    outputs = model(**batch)
    backward(outputs.loss)
    learned = {n.removeprefix("module."): p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"loss": outputs.loss.item(), **{n: part.item() for n, part in outputs.loss_parts.items()}}, learned


def difference(got, want):
    """Largest difference of the losses, and of gradients relative to the largest entry of each, or to 0.01."""
    losses = max(abs(got[0][name] - value) for name, value in want[0].items())
    gradients = {}
    for name, value in want[1].items():
        # The gradient of a key's bias is rounding noise: softmax cancels it.
        largest = value.abs().max().clamp(min=1e-2)
        gradients[name] = ((got[1][name] - value).abs().max() / largest).item()
    return {"losses": losses, "gradients": max(gradients.values()), "at": max(gradients, key=gradients.get)}


def run(path, arguments):
    torch.set_num_threads(1)
    models = {name: make_model(fields) for name, (fields, _) in CASES.items()}
    whole = slice(0, len(FRAMES))
    want = {}
    for name, model in models.items():
        batch = make_batch(model.config, whole, absent=CASES[name][1])
        want[name] = compute(model, batch, torch.Tensor.backward)
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")  # as the presets have it; of no effect on CPU
    report = {"processes": accelerator.num_processes}
    for name, model in models.items():
        model.zero_grad()
        share = make_batch(model.config, SHARES[accelerator.process_index], absent=CASES[name][1])
        got = compute(accelerator.prepare(model), share, accelerator.backward)
        report[name] = [None] * accelerator.num_processes
        dist.all_gather_object(report[name], difference(got, want[name]))
    if accelerator.is_main_process:
        Path(path).write_text(json.dumps(report))
    return stop_and_resume(arguments)


def stop_and_resume(arguments):
    """The first process alone is asked to stop in the fourth step."""
    learning_rate = loop.learning_rate

    def interrupting(step, *others):
        if step == 3 and dist.get_rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return learning_rate(step, *others)

    loop.learning_rate = interrupting
    status = main(arguments)
    loop.learning_rate = learning_rate
    return main([*arguments, "--resume", "auto"]) if status == 128 + signal.SIGTERM else status or 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
