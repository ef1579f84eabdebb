"""The optimizer, and the learning rate of every step."""

import math

import torch
from torch import nn

from r2tuning.training.config import TrainingConfig


DROP_FACTOR = 0.1  # applied to the learning rate at each of `drop_epochs`


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over all trainable parameters in one group: norms, biases and scalars decay as well."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=config.weight_decay)


def count_warmup_steps(steps_per_epoch: int, config: TrainingConfig) -> int:
    """Number of steps of the warm-up: `warmup_steps`, or `warmup_epochs` if that is shorter.

    The length of an epoch is the measure, not that of the run: a run can be lengthened, and its warm-up stays.
    """
    if config.warmup_epochs is None:
        return config.warmup_steps
    return min(config.warmup_steps, math.ceil(config.warmup_epochs * steps_per_epoch))


def learning_rate(step: int, steps_per_epoch: int, config: TrainingConfig) -> float:
    """Learning rate of a step, counted from 0.

    During the warm-up the rate rises linearly from `warmup_ratio * learning_rate` to `learning_rate`, whatever
    `drop_epochs` says. After it, the rate drops at `drop_epochs`, or follows a half cosine to 0 at the end of the run.
    """
    warmup_steps = count_warmup_steps(steps_per_epoch, config)
    if step < warmup_steps:
        return config.learning_rate * (config.warmup_ratio + (1 - config.warmup_ratio) * step / warmup_steps)
    if config.schedule == "cosine":
        total = config.epochs * steps_per_epoch
        progress = (step - warmup_steps) / max(1, total - warmup_steps)
        return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    drops = sum(step // steps_per_epoch >= epoch for epoch in config.drop_epochs)
    return config.learning_rate * DROP_FACTOR**drops


__all__ = ["count_warmup_steps", "learning_rate", "make_optimizer"]
