"""Training on a benchmark."""
