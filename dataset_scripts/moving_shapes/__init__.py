"""Moving Shapes, a generated benchmark: `python -m dataset_scripts.moving_shapes OUT`."""
