"""The web app as a Hugging Face Space, written to a folder or published on the Hub in one commit."""

import json
import os
import shlex
import shutil
from pathlib import Path

from huggingface_hub import SpaceCard
from huggingface_hub.errors import HTTPError  # that of httpx, under whatever name httpx is installed

from modeling_r2tuning.files_r2tuning import writing_folder
from r2tuning.checkpoint_files import CARD, REQUIREMENTS
from r2tuning.checks import check_model_name, check_model_type
from r2tuning.hub.card_text import CARDS, CardRules, refresh_card
from r2tuning.hub.push import check_destination, collect_checkpoint
from r2tuning.hub.repository import Repository, create_repository, explain_failure, publish, retry
from r2tuning.hub.wheel import make_wheel
from r2tuning_cli.defaults import PACKAGED


TEMPLATES = CARDS / "space"
APP = "app.py"
MODEL_LINE = "MODEL = None"  # in app.py
CHECKPOINT = "checkpoint"  # folder of a Space that holds a checkpoint
HUB_CARD = "Check out the configuration reference at "  # text of the card that the Hub itself gives a new Space
# What a Space is called and how its page looks is its owner's choice.
CARD_RULES = CardRules(
    always=(),
    kept=frozenset({"title", "emoji", "colorFrom", "colorTo", "pinned", "license", "short_description"}),
)


def write_space(folder: str | os.PathLike, model: str = PACKAGED, *, backbone: str | None = None) -> None:
    """Write a complete Space into a folder: `pip install -r requirements.txt` and `python app.py` run it.

    The package goes into it as a wheel, because no index has it.

    Args:
        folder: A new or an empty folder.
        model: The model that answers: "packaged", a name on the Hub, or the folder of a checkpoint, which is copied.
        backbone: Name on the Hub of the backbone that a checkpoint in a folder was trained on; needed if the checkpoint
            refers to a local folder.

    Raises:
        FileExistsError: The folder is not empty.
        FileNotFoundError: The model is neither a folder nor a name on the Hub.
        OSError: There is no such model on the Hub, or it cannot be fetched.
        ValueError: The model is not a complete checkpoint of R2-Tuning, or `backbone` does not apply to it.
    """
    files = _collect_files(model, backbone)
    with writing_folder(folder) as partial:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)


def push_space(repo_id: str, model: str = PACKAGED, *, private: bool = False, backbone: str | None = None) -> str:
    """Publish the app as a Space on the Hub, a new one or the next commit of an existing one.

    Everything goes into one commit. Files that an earlier push wrote and this push does not are removed; files that
    others added are kept, and so are a card and a `requirements.txt` that were edited on the Hub.

    Args:
        repo_id: `organisation/name`; your user name also counts as an organisation.
        model: As for `write_space`.
        private: Make the Space private; an existing Space must already be private.
        backbone: As for `write_space`.

    Returns:
        Address of the Space.

    Raises:
        FileNotFoundError: The model is neither a folder nor a name on the Hub.
        ValueError: The model is not a complete checkpoint of R2-Tuning, `backbone` does not apply to it, or `repo_id` has
            no organisation.
        PermissionError: There is no token, or it may not write to the Space; or the Space is public and `private` was
            asked for.
        ConnectionError: The upload failed after several attempts. The message has the command that repeats it.
    """
    check_destination(repo_id)
    files = _collect_files(model, backbone)
    fresh = bytes(files.pop(CARD)).decode()

    def make_card(on_hub: str | None) -> str:
        if on_hub is None or on_hub.rpartition("---")[2].strip().startswith(HUB_CARD):
            return fresh
        return refresh_card(on_hub, fresh, CARD_RULES)

    try:
        address = retry(lambda: create_repository(repo_id, "space", private=private))
        message = "Publish the app of R2-Tuning"
        retry(lambda: publish(Repository(repo_id, "space"), files, make_card, message=message))
    except (HTTPError, OSError, RuntimeError) as error:
        command = _push_command(repo_id, model, private, backbone)
        raise explain_failure(error, f"Finish with `{command}`.") from error
    return address


def _collect_files(model: str, backbone: str | None) -> dict[str, Path | bytes]:
    """Path on disk or content of each file of the Space, by path in the Space; the content of the card."""
    reference, checkpoint = _find_model(model, backbone)
    wheel, content = make_wheel()
    files: dict[str, Path | bytes] = {
        APP: _make_app(reference),
        CARD: _make_card(None if checkpoint else reference),
        REQUIREMENTS: TEMPLATES / REQUIREMENTS,
        wheel: content,
    }
    for name, source in checkpoint.items():
        files[f"{CHECKPOINT}/{name}"] = source
    return files


def _find_model(model: str, backbone: str | None) -> tuple[str | None, dict[str, Path | bytes]]:
    """Check a model.

    Returns:
        What `app.py` loads: a name on the Hub, a folder of the Space, or `None` for the packaged model; and the files of
        that folder.
    """
    if Path(model).is_dir():
        _, files = collect_checkpoint(Path(model), backbone)
        return CHECKPOINT, files
    if backbone is not None:
        raise ValueError(f"`backbone` goes with a checkpoint in a folder, but '{model}' is no folder: leave it out.")
    if model == PACKAGED:
        return None, {}
    check_model_name("model", model)
    check_model_type(model, "r2tuning")
    return model, {}


def _make_app(reference: str | None) -> bytes:
    text = (TEMPLATES / APP).read_text(encoding="utf-8")
    if reference is not None:
        text = text.replace(MODEL_LINE, f"MODEL = {json.dumps(reference)}")
    return text.encode()


def _make_card(name_on_hub: str | None) -> bytes:
    """Make the card; the page of the Space links to the model if it is on the Hub."""
    card = SpaceCard((TEMPLATES / CARD).read_text(encoding="utf-8"))
    if name_on_hub is not None:
        card.data["models"] = [name_on_hub]
    return str(card).encode()


def _push_command(repo_id: str, model: str, private: bool, backbone: str | None) -> str:
    """Return the command line that pushes the Space again."""
    words = ["r2tuning", "push", "--space", repo_id]
    words.append(os.path.abspath(model) if Path(model).is_dir() else model)
    if private:
        words.append("--private")
    if backbone is not None:
        words += ["--backbone", backbone]
    return shlex.join(words)


__all__ = ["push_space", "write_space"]
