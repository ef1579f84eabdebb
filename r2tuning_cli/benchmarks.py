"""Names of the benchmarks, for choices and help texts."""

BENCHMARK_FPS = {
    "qvhighlights": 0.5,
    "charades_sta": 1.0,
    "ego4d_nlq": 0.5,
    "tacos": 0.5,
    "youtube_highlights": 0.59,
    "tvsum": 0.5,
    "moving_shapes": 1.0,
    "moving_shapes_summary": 1.0,
}
BENCHMARKS = tuple(BENCHMARK_FPS)
ONE_FRAME_PER_UNIT = "youtube_highlights"
# Benchmarks that the authors released checkpoints for, each with the domains that have a checkpoint of their own.
RELEASED_DOMAINS: dict[str, tuple[str, ...]] = {
    "qvhighlights": (),
    "ego4d_nlq": (),
    "charades_sta": (),
    "tacos": (),
    "youtube_highlights": ("dog", "gymnastics", "parkour", "skating", "skiing", "surfing"),
    "tvsum": ("BK", "BT", "DS", "FM", "GA", "MS", "PK", "PR", "VT", "VU"),
}
NUM_RELEASED = sum(len(domains) or 1 for domains in RELEASED_DOMAINS.values())


__all__ = ["BENCHMARKS", "BENCHMARK_FPS", "NUM_RELEASED", "ONE_FRAME_PER_UNIT", "RELEASED_DOMAINS"]
