"""Files to a repository on the Hub in one commit, which takes back nothing that others did there.

The repository holds a list of what we wrote, with checksums: so we know what has been edited there since, and which
files may go because we do not write them any more.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # httpx's, by whatever name it is installed
    LocalEntryNotFoundError,  # of a download: no answer
)
from huggingface_hub.hf_api import RepoFile


RECORD = ".r2tuning-published.json"
CARD = "README.md"
TEXTS = ("LICENSE",)  # besides the card: what people write by hand
WAITS_SEC = (2, 10, 30)  # before the second and each further attempt
# Besides those from 500 on, which are the server's own trouble; 409 and 412: somebody else's commit was faster.
PASSING_STATUS = {408, 409, 412, 425, 429}


class Repository:
    """A repository on the Hub at one commit.

    Args:
        repo_id: `organisation/name`.
        kind: What it holds.
    """

    def __init__(self, repo_id: str, kind: Literal["model", "dataset"]):
        self.api, self.repo_id, self.kind = HfApi(), repo_id, kind
        self.head = self.api.repo_info(repo_id, repo_type=kind).sha
        tree = self.api.list_repo_tree(repo_id, recursive=True, revision=self.head, repo_type=kind)
        self.files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        self.record = self._read_record()

    def read(self, name: str) -> bytes:
        """Content of a file."""
        path = self.api.hf_hub_download(self.repo_id, name, revision=self.head, repo_type=self.kind)
        return Path(path).read_bytes()

    def is_edited(self, name: str) -> bool:
        """Whether a file is there that is not as we wrote it."""
        return name in self.files and (self.record or {}).get(name) != self._checksum(name)

    def stale(self, names: set[str], ours: Callable[[str], bool]) -> list[str]:
        """Files that we wrote and do not write any more; where there is no list of them, by their names.

        Args:
            names: What is written now.
            ours: Whether a file of that name can only be ours; asked for repositories without a list.
        """
        if self.record is None:
            return sorted(name for name in self.files.keys() - names if ours(name))
        gone = (self.record.keys() & self.files.keys()) - names
        return sorted(name for name in gone if not self.is_edited(name))

    def commit(self, files: dict[str, Path | bytes], kept: set[str], stale: list[str], message: str) -> None:
        """Write files and the list of them.

        Args:
            files: By name in the repository.
            kept: Those that hold what others wrote; they are not for us to remove.
            stale: To be removed.
            message: Title of the commit.
        """
        added = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        record = {add.path_in_repo: add.upload_info.sha256.hex() for add in added if add.path_in_repo not in kept}
        added.append(CommitOperationAdd(RECORD, json.dumps(record, indent=1).encode() + b"\n"))
        self.api.create_commit(
            self.repo_id,
            [*added, *(CommitOperationDelete(name) for name in stale)],
            commit_message=message,
            repo_type=self.kind,
            parent_commit=self.head,
        )

    def _checksum(self, name: str) -> str:
        lfs = self.files[name].lfs
        return lfs.sha256 if lfs is not None else hashlib.sha256(self.read(name)).hexdigest()

    def _read_record(self) -> dict[str, str] | None:
        if RECORD not in self.files:
            return None
        try:
            record = json.loads(self.read(RECORD))
        except ValueError:
            return None
        return record if isinstance(record, dict) else None


def publish(
    repository: Repository,
    files: dict[str, Path | bytes],
    make_card: Callable[[str | None], str],
    *,
    ours: Callable[[str], bool] = lambda name: False,
    message: str,
    logger: logging.Logger,
) -> None:
    """Bring a repository up to date in one commit; what others wrote there stays.

    Args:
        repository: As it is now; if it changes meanwhile, the commit is refused by the Hub (412).
        files: By name in the repository, without the card.
        make_card: From the card that is there, if others wrote or edited it, to the new one.
        ours: As for `Repository.stale`.
        message: Title of the commit.
        logger: Is told what was kept.
    """
    kept = {name for name in (CARD, *TEXTS) if repository.is_edited(name)}
    for name in kept & files.keys():
        logger.warning(f"{name} was written or edited on the Hub: that one is kept")
    files = {name: content for name, content in files.items() if name not in kept}
    if CARD not in kept:
        files[CARD] = make_card(None).encode()
    else:
        try:
            files[CARD] = make_card(repository.read(CARD).decode()).encode()
            logger.info(f"{CARD} was edited on the Hub: its text is kept, results and metadata are made anew")
        except UnicodeDecodeError:
            logger.warning(f"{CARD} on the Hub is not in UTF-8: it is left as it is, results and all")
    repository.commit(files, kept, repository.stale({*files, *kept, RECORD}, ours), message)


def with_patience(action: Callable[[], Any], logger: logging.Logger) -> Any:
    """The result of an action, which is tried again where a failure may pass by itself."""
    for wait_sec in WAITS_SEC:
        try:
            return action()
        except (HTTPError, LocalEntryNotFoundError, RuntimeError) as error:
            if not _may_pass(error):
                raise
            logger.warning(f"the Hub failed ({reason(error)}); trying again in {wait_sec} s")
            time.sleep(wait_sec)
    return action()


def reason(error: BaseException) -> str:
    """What the Hub, or the way to it, said."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return f"{str(error).rstrip('.')}: {reason(error.__cause__)}"
    return getattr(error, "server_message", None) or str(error) or type(error).__name__


def _may_pass(error: Exception) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING_STATUS or error.response.status_code >= 500
    return True  # no answer at all, or the storage of large files failed, which gives a new address the next time


__all__ = ["CARD", "RECORD", "Repository", "publish", "reason", "with_patience"]
