"""Checkpoints of the authors' code: found, fetched and converted."""
