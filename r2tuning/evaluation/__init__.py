"""Predictions of a checkpoint, and scores of prediction files."""
