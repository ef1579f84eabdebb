"""Names of the files that are stored with a model; the model's own files are named in `loading_r2tuning`."""

CARD = "README.md"
LICENSE = "LICENSE"
RESULTS = "results.json"
METRICS = "metrics.json"
CURVES = "curves.png"
HANDLER = "handler.py"  # of Inference Endpoints
REQUIREMENTS = "requirements.txt"


__all__ = ["CARD", "CURVES", "HANDLER", "LICENSE", "METRICS", "REQUIREMENTS", "RESULTS"]
