"""Names of the files that lie beside a model in its folder; `loading_r2tuning` has those of the model itself."""

CARD = "README.md"
LICENSE = "LICENSE"
RESULTS = "results.json"
METRICS = "metrics.json"
CURVES = "curves.png"


__all__ = ["CARD", "CURVES", "LICENSE", "METRICS", "RESULTS"]
