"""Settings of a training run. They live in `r2tuning_cli`, so that the command's help does not import PyTorch."""

from r2tuning_cli.programs import make_script_parser
from r2tuning_cli.training_options import TrainingConfig, make_config, preset_names, read_preset


def read_config(argv: list[str] | None = None) -> TrainingConfig:
    """Settings from a command line of `train/run.py`.

    Raises:
        FileNotFoundError: There is no such preset.
        ValueError: A preset has an unknown field, a required option is missing, or a value is out of range.
    """
    return make_config(vars(make_script_parser("train", "run.py").parse_args(argv)))


__all__ = ["TrainingConfig", "make_config", "preset_names", "read_config", "read_preset"]
