"""Train with `transformers.Trainer` instead of `train/run.py`.

    python examples/transformers_trainer.py --data-dir ANNOTATIONS --features CACHE --output-dir RUN

The model returns its loss and `GroundingCollator` makes its arguments, which is all that the Trainer needs. What
`train/run.py` adds: the released schedule, the benchmark's own scores, positive frames that are drawn anew in each
epoch (here in each run), and resuming from any step.
"""

import argparse
from pathlib import Path

from transformers import Trainer, TrainingArguments

from dataset_scripts import load_vtg_dataset
from modeling_r2tuning import save_checkpoint
from r2tuning.features.cache import FeatureCache
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig, read_preset
from r2tuning.training.data import GroundingData
from r2tuning.training.model import make_model, make_processor


def train(config: TrainingConfig, **arguments) -> Trainer:
    """Train and save a model; `arguments` are those of `TrainingArguments`."""
    model = make_model(config)
    processor = make_processor(config, model.config.fps)
    rows = load_vtg_dataset(config.benchmark, split="train", data_dir=config.data_dir)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=config.output_dir,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            warmup_steps=config.warmup_steps,
            remove_unused_columns=False,  # the collator makes the model's arguments of what the dataset gives
            **{"num_train_epochs": config.epochs * config.repeat_factor, "report_to": "none", **arguments},
        ),
        train_dataset=GroundingData(
            list(rows), processor, FeatureCache(config.features, model=model), benchmark=config.benchmark
        ),
        data_collator=GroundingCollator(config.seed, model.config.positive_saliency),
    )
    trainer.train()
    save_checkpoint(model, processor, Path(config.output_dir) / "final")
    return trainer


def main():
    """Read the command line and train on QVHighlights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data-dir", "features", "output-dir"):
        parser.add_argument(f"--{name}", required=True, help=f"as for train/run.py: {name.replace('-', ' ')}")
    train(TrainingConfig(**read_preset("qvhighlights"), **vars(parser.parse_args())))


if __name__ == "__main__":
    main()
