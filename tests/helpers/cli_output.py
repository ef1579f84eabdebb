"""Reading what a command wrote."""

import json
from pathlib import Path


DURATION_SEC = 20
QUERIES = ("a man in red", "people laugh")


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def only_line(text):
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]
