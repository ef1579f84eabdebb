"""Moving Shapes, a benchmark that is generated: `python -m dataset_scripts.moving_shapes OUT`."""
