"""The web app of R2-Tuning as a Hugging Face Space: `pip install -r requirements.txt`, then `python app.py`.

The package itself is the wheel beside this file. `requirements.txt` cannot name it, because a Space installs its
requirements before it copies any other file; so the wheel is unpacked when the app starts.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile


MODEL = None  # a name on the Hub, or a folder beside this file; None: the small model that comes with the package


def main() -> None:
    """Serve the app until it is stopped."""
    os.chdir(Path(__file__).parent)
    wheels = sorted(Path.cwd().glob("r2tuning-*.whl"))
    if len(wheels) > 1:
        raise SystemExit(f"Keep one of {', '.join(wheel.name for wheel in wheels)}, and remove the others.")
    with TemporaryDirectory() as packages:
        for wheel in wheels:
            with ZipFile(wheel) as archive:
                archive.extractall(packages)
        sys.path.insert(0, packages)
        from r2tuning.app.launch import launch_app

        launch_app(model=MODEL)


if __name__ == "__main__":
    main()
