"""Benchmarks: scripts of a checkout, run as `python -m benchmarks.NAME`."""
