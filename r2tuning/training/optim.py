"""The optimizer and the learning rate of every step."""

import math

import torch
from torch import nn

from r2tuning.training.config import TrainingConfig


DROP = 0.1  # what the rate is multiplied by at each of `drop_epochs`


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over all that is learned, in one group: norms, biases and scalars decay like the rest."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(learned, lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(step: int, steps_per_epoch: int, config: TrainingConfig) -> float:
    """Rate of a step, counted from 0.

    The warm-up rises linearly from `warmup_ratio` to 1 of the rate and knows no drops. After it the rate drops from
    epoch to epoch, or falls from step to step to 0 at the end.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (config.warmup_ratio + (1 - config.warmup_ratio) * step / config.warmup_steps)
    if config.schedule == "cosine":
        total = config.epochs * steps_per_epoch
        progress = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2
    drops = sum(step // steps_per_epoch >= epoch for epoch in config.drop_epochs)
    return config.learning_rate * DROP**drops


__all__ = ["learning_rate", "make_optimizer"]
