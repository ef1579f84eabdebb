"""Train with `transformers.Trainer` instead of `train/run.py`.

    python examples/transformers_trainer.py --data-dir ANNOTATIONS --features CACHE --output-dir RUN

The model returns its loss and `GroundingCollator` makes its arguments; the Trainer needs nothing else. `train/run.py`
adds the released learning rate schedule, the scores of the benchmark, new positive frames in every epoch (here they stay
the same throughout a run), and exact resuming from any step.
"""

import argparse
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from dataset_scripts import load_vtg_dataset
from modeling_r2tuning import save_checkpoint
from r2tuning.features.cache import FeatureCache
from r2tuning.training.collate import GroundingCollator
from r2tuning.training.config import TrainingConfig, read_preset
from r2tuning.training.data import GroundingData
from r2tuning.training.model import make_model, make_processor


def train(config: TrainingConfig, **arguments: Any) -> Trainer:
    """Train a model from features and save it to `final` in `config.output_dir`.

    Args:
        config: Settings; those that the Trainer knows are used.
        arguments: Further fields of `TrainingArguments`.
    """
    model = make_model(config)
    processor = make_processor(config, model.config)
    rows = load_vtg_dataset(config.benchmark, split="train", data_dir=config.data_dir)
    cache = FeatureCache(config.features, model=model)
    defaults = {
        "output_dir": config.output_dir,
        "num_train_epochs": config.epochs * config.repeat_factor,
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "warmup_steps": config.warmup_steps,
        "remove_unused_columns": False,  # the collator needs fields that are no arguments of the model
        "report_to": "none",
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**{**defaults, **arguments}),
        train_dataset=GroundingData(list(rows), processor, cache, benchmark=config.benchmark),
        data_collator=GroundingCollator(config.seed, model.config.positive_saliency),
    )
    trainer.train()
    save_checkpoint(model, processor, Path(config.output_dir) / "final")
    return trainer


def main() -> None:
    """Read the command line and train on QVHighlights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder of the annotation files")
    parser.add_argument("--features", required=True, help="feature cache")
    parser.add_argument("--output-dir", required=True, help="folder of the run")
    options = vars(parser.parse_args())
    train(TrainingConfig(**read_preset("qvhighlights"), **options))


if __name__ == "__main__":
    main()
