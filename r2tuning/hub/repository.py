"""One commit to a repository on the Hub that never undoes what others did there; for checkpoints, datasets and Spaces.

Every commit adds a record: the checksums of the files that we wrote. At the next commit the record tells which files
were edited on the Hub since (they are kept), and which files of ours are no longer written (they are removed).
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # that of httpx, under whatever name httpx is installed
    LocalEntryNotFoundError,  # a download got no answer
)
from huggingface_hub.hf_api import RepoFile

from r2tuning.checkpoint_files import CARD, HANDLER, LICENSE, REQUIREMENTS


logger = logging.getLogger(__name__)

RECORD = ".r2tuning-published.json"
TEXTS = (HANDLER, LICENSE, REQUIREMENTS)  # files besides the card that people write by hand
WAITS_SEC = (2, 10, 30)  # before the second and each further attempt
# Client errors that pass: timeout (408), too early (425), rate limit (429), and a commit that somebody else made between
# our reading and our writing (409, 412): the next attempt reads the repository again and starts from their commit.
TRANSIENT_STATUS = {408, 409, 412, 425, 429}

Kind = Literal["model", "dataset", "space"]
Result = TypeVar("Result")


class Repository:
    """The content of a repository on the Hub at its latest commit.

    Args:
        repo_id: `organisation/name`.
        kind: What the repository holds.

    Attributes:
        head: Hash of that commit.
        files: What the Hub says of each file, by path.
        record: Checksums of the files that we wrote, by path; `None` if the repository has no record.
    """

    def __init__(self, repo_id: str, kind: Kind) -> None:
        self.api = HfApi()
        self.repo_id = repo_id
        self.kind = kind
        self.head = self.api.repo_info(repo_id, repo_type=kind).sha
        tree = self.api.list_repo_tree(repo_id, recursive=True, revision=self.head, repo_type=kind)
        self.files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        self.record = self._read_record()

    def read(self, name: str) -> bytes:
        """Download the content of a file."""
        path = self.api.hf_hub_download(self.repo_id, name, revision=self.head, repo_type=self.kind)
        return Path(path).read_bytes()

    def is_edited(self, name: str) -> bool:
        """Whether the repository holds a file of this name that we did not write as it is now."""
        if name not in self.files:
            return False
        record = self.record or {}
        return record.get(name) != self._checksum(name)

    def find_stale(self, names: set[str], is_ours: Callable[[str], bool]) -> list[str]:
        """List the files that we wrote earlier and do not write any more.

        Args:
            names: Files of this commit.
            is_ours: Whether a file of that name can only be ours; decides in a repository without a record.
        """
        if self.record is None:
            return sorted(name for name in self.files.keys() - names if is_ours(name))
        written_earlier = self.record.keys() & self.files.keys()
        return sorted(name for name in written_earlier - names if not self.is_edited(name))

    def commit(self, files: Mapping[str, Path | bytes], kept: set[str], stale: list[str], message: str) -> None:
        """Add files and their record and remove stale files, in one commit.

        Args:
            files: Path on disk or content, by path in the repository.
            kept: Files that others have edited. They stay out of the record, so that they are never mistaken for ours
                and removed.
            stale: Files to remove.
            message: Title of the commit.

        Raises:
            HfHubHTTPError: The Hub refused the commit; status 412 if the repository has a newer commit than `head`.
        """
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        record = {}
        for name, content in sorted(files.items()):
            addition = CommitOperationAdd(name, content)
            operations.append(addition)
            if name not in kept:
                record[name] = addition.upload_info.sha256.hex()
        operations.append(CommitOperationAdd(RECORD, json.dumps(record, indent=1).encode() + b"\n"))
        operations += [CommitOperationDelete(name) for name in stale]
        self.api.create_commit(
            self.repo_id,
            operations,
            commit_message=message,
            repo_type=self.kind,
            parent_commit=self.head,  # an edit made since `head` was read must not be overwritten
        )

    def _checksum(self, name: str) -> str:
        lfs = self.files[name].lfs
        if lfs is not None:
            return lfs.sha256
        return hashlib.sha256(self.read(name)).hexdigest()

    def _read_record(self) -> dict[str, str] | None:
        if RECORD not in self.files:
            return None
        try:
            record = json.loads(self.read(RECORD))
        except ValueError:
            return None
        return record if isinstance(record, dict) else None


def create_repository(repo_id: str, kind: Kind, *, private: bool) -> str:
    """Create a repository if it does not exist; return its address. A Space is one of Gradio.

    Raises:
        PermissionError: The repository exists and is public, but `private` was asked for.
    """
    api = HfApi()
    sdk = "gradio" if kind == "space" else None
    address = api.create_repo(repo_id, repo_type=kind, space_sdk=sdk, private=private, exist_ok=True)
    if private and not api.repo_info(repo_id, repo_type=kind).private:
        raise PermissionError(f"'{repo_id}' exists and is public: make it private on the Hub first, or name another.")
    return str(address)


def publish(
    repository: Repository,
    files: Mapping[str, Path | bytes],
    make_card: Callable[[str | None], str],
    *,
    is_ours: Callable[[str], bool] = lambda name: False,
    message: str,
) -> None:
    """Bring a repository up to date in one commit, and keep what others wrote there.

    Args:
        repository: The repository as it is now.
        files: Path on disk or content, by path in the repository; without the card.
        make_card: Makes the new card from the one on the Hub, or from `None` if that one is missing or unedited.
        is_ours: As for `Repository.find_stale`.
        message: Title of the commit.

    Raises:
        HfHubHTTPError: The Hub refused the commit; status 412 if somebody else made one in the meantime.
    """
    kept = {name for name in (CARD, *TEXTS) if repository.is_edited(name)}
    for name in kept & files.keys():
        logger.warning(f"{name} was written or edited on the Hub and is kept as it is there")
    committed = {name: content for name, content in files.items() if name not in kept}
    card = _refresh_edited_card(repository, make_card) if CARD in kept else make_card(None)
    if card is not None:
        committed[CARD] = card.encode()
    stale = repository.find_stale({*committed, *kept, RECORD}, is_ours)
    repository.commit(committed, kept, stale, message)


def _refresh_edited_card(repository: Repository, make_card: Callable[[str | None], str]) -> str | None:
    """Refresh a card that was edited on the Hub; `None` if it is not text."""
    try:
        on_hub = repository.read(CARD).decode()
    except UnicodeDecodeError:
        logger.warning(f"{CARD} on the Hub is not UTF-8 text and is left as it is, without the new results")
        return None
    logger.info(f"{CARD} was edited on the Hub: its text is kept, its results and metadata are updated")
    return make_card(on_hub)


def retry(action: Callable[[], Result]) -> Result:
    """Return the result of an action on the Hub; repeat the action after a transient failure.

    Args:
        action: Run up to `len(WAITS_SEC) + 1` times; must start from the repository's present state each time.

    Raises:
        HTTPError: The last attempt failed, or the failure is not transient.
    """
    for wait_sec in WAITS_SEC:
        try:
            return action()
        except (HTTPError, LocalEntryNotFoundError, RuntimeError) as error:
            if not _is_transient(error):
                raise
            logger.warning(f"the Hub failed ({describe_error(error)}); trying again in {wait_sec} s")
            time.sleep(wait_sec)
    return action()


def describe_error(error: BaseException) -> str:
    """Return the message of the Hub, or of the connection to it, as one phrase."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return f"{str(error).rstrip('.')}: {describe_error(error.__cause__)}"
    return getattr(error, "server_message", None) or str(error) or type(error).__name__


def explain_failure(error: Exception, advice: str) -> OSError:
    """Make an error that says what went wrong and how to finish.

    Args:
        error: What creating the repository or the commit raised.
        advice: What to do, as a sentence.
    """
    message = f"Publishing failed: {describe_error(error).rstrip('.')}."
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
        hint = "The token may not write there: log in with one that may (`hf auth login`)."
        return PermissionError(f"{message} {hint} {advice}")
    if isinstance(error, PermissionError):
        return PermissionError(f"{message} {advice}")
    return ConnectionError(f"{message} {advice}")


def _is_transient(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in TRANSIENT_STATUS or status >= 500
    # Either there was no answer at all, or the storage of large files refused an upload (a `RuntimeError`) because the
    # address that the Hub gave has expired; the next attempt gets a new one.
    return True


__all__ = [
    "RECORD",
    "Kind",
    "Repository",
    "create_repository",
    "describe_error",
    "explain_failure",
    "publish",
    "retry",
]
