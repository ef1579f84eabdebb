"""Pack the package as a wheel, from an editable checkout as from an installed wheel, without any build tool."""

import base64
import hashlib
import io
from importlib import metadata, resources
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from r2tuning.hub.card_text import CARDS


DISTRIBUTION = "r2tuning"
PACKAGES = ("dataset_scripts", "modeling_r2tuning", "r2tuning", "r2tuning_cli")
# The same files as in `setup.py`: a checkout may hold others, which must not be published with the wheel.
PATTERNS = ("**/*.py", "py.typed", "app/assets/*", "default_model/*", "training/presets/*.json")
METADATA = ("METADATA", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
WHEEL = "Wheel-Version: 1.0\nGenerator: r2tuning\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make_wheel() -> tuple[str, bytes]:
    """Make the wheel of the running package; equal files give equal bytes.

    Returns:
        Name of the wheel, as `pip` expects it, and its content.

    Raises:
        ModuleNotFoundError: The package was not installed, but found by a path.
    """
    distribution = _find_distribution()
    stem = f"{DISTRIBUTION}-{distribution.version}"
    contents = {**_read_packages(), **_read_metadata(distribution, f"{stem}.dist-info")}
    record = f"{stem}.dist-info/RECORD"
    contents[record] = _make_record(contents, record).encode()
    wheel = io.BytesIO()
    with ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            entry = ZipInfo(name)  # its date is fixed
            entry.external_attr = 0o644 << 16
            entry.compress_type = ZIP_DEFLATED
            archive.writestr(entry, content)
    return f"{stem}-py3-none-any.whl", wheel.getvalue()


def _find_distribution() -> metadata.Distribution:
    """The installed package; in a checkout there may be the metadata of a build beside it, which are incomplete."""
    for distribution in metadata.distributions(name=DISTRIBUTION):
        if distribution.read_text("METADATA") is not None:
            return distribution
    raise ModuleNotFoundError(
        "The package must be installed to be packed as a wheel: `pip install -e .` in the checkout."
    )


def _read_packages() -> dict[str, bytes]:
    """Content of the files of all packages, by path in the wheel."""
    contents = {}
    for package in PACKAGES:
        folder = Path(str(resources.files(package)))
        for pattern in PATTERNS:
            for path in sorted(folder.glob(pattern)):
                contents[f"{package}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    for path in sorted(CARDS.rglob("*")):  # in a checkout it is a folder of its own
        if path.is_file() and path.suffix != ".pyc":
            contents[f"r2tuning/hub_cards/{path.relative_to(CARDS).as_posix()}"] = path.read_bytes()
    return contents


def _read_metadata(distribution: metadata.Distribution, folder: str) -> dict[str, bytes]:
    contents = {}
    for name in METADATA:
        text = distribution.read_text(name)
        if text is not None:
            contents[f"{folder}/{name}"] = text.encode()
    contents[f"{folder}/WHEEL"] = WHEEL.encode()
    return contents


def _make_record(contents: dict[str, bytes], own_path: str) -> str:
    """List every file with its checksum and size, as the format of wheels demands."""
    lines = []
    for name, content in contents.items():
        checksum = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={checksum},{len(content)}\n")
    return "".join([*lines, f"{own_path},,\n"])


__all__ = ["make_wheel"]
