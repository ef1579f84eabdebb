"""An example that works offline: a generated video, for models that know such videos."""

from pathlib import Path

from dataset_scripts.moving_shapes.generate import annotate_video
from dataset_scripts.moving_shapes.render import write_video
from dataset_scripts.moving_shapes.scenes import make_scene


SEED, SPLIT = 7, "test"
NUM_QUERIES = 3


def make_example(folder: Path) -> tuple[Path, list[str]]:
    """Render a video of moving shapes.

    Args:
        folder: An existing folder.

    Returns:
        The video, and queries that something in it matches, each of another kind.
    """
    rows, _ = annotate_video(SEED, SPLIT, 0)
    queries: dict[str, str] = {}
    for row in rows:
        queries.setdefault(row["domain"], row["query"])
    path = folder / "moving_shapes.mp4"
    write_video(make_scene(SEED, SPLIT, 0), path)
    return path, list(queries.values())[:NUM_QUERIES]


__all__ = ["make_example"]
