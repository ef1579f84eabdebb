"""A small Hugging Face Hub on the loopback interface, for the real `huggingface_hub` client. Standard library only.

The client reads its environment when it is imported, so what talks to this Hub runs in another process:

    with LoopbackHub() as hub:
        hub.add_repo("org/model", {"config.json": b"{}"})
        run_python("import huggingface_hub; ...", hub.env(tmp_path))

or, in the process of the test, after `hub.connect(monkeypatch, tmp_path)`.

Every repository has the branch `main` and nothing else. Not imitated: xet, redirects, other branches, tags, pull
requests, discussions, pages of results, rights by organisation, deleting or moving a repository. Answer to those: 501.
"""

import base64
import hashlib
import json
import os
import re
import textwrap
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from fresh_python import run_fresh


WRITE_TOKEN = "hf_loopback_write"
READ_TOKEN = "hf_loopback_read"
_USER = "tester"
_LFS_SUFFIXES = {".arrow", ".bin", ".gz", ".mp4", ".npy", ".npz", ".parquet", ".pt", ".pth", ".safetensors", ".zip"}
_LFS_MIN_SIZE = 10 * 2**20

_API = r"/api/(model|dataset|space)s/([^/]+(?:/[^/]+)?)"
_WEB = r"/(?:(dataset|space)s/)?([^/]+(?:/[^/]+)?)"
_ROUTES = [
    ("GET", r"/api/whoami-v2", "_whoami"),
    ("POST", r"/api/repos/create", "_create_repo"),
    ("POST", r"/api/validate-yaml", "_validate_yaml"),
    ("GET", rf"{_API}(?:/revision/([^/]+))?", "_info"),
    ("GET", rf"{_API}/tree/([^/]+)(?:/(.+))?", "_tree"),
    ("GET", rf"{_API}/refs", "_refs"),
    ("POST", rf"{_API}/paths-info/([^/]+)", "_paths_info"),
    ("POST", rf"{_API}/preupload/([^/]+)", "_preupload"),
    ("POST", rf"{_API}/commit/([^/]+)", "_commit"),
    ("POST", rf"{_WEB}\.git/info/lfs/objects/batch", "_lfs_batch"),
    ("POST", rf"{_WEB}\.git/info/lfs/objects/verify", "_lfs_verify"),
    ("PUT", rf"{_WEB}\.git/info/lfs/objects/([0-9a-f]+)", "_lfs_put"),
    ("GET", rf"{_WEB}/resolve/([^/]+)/(.+)", "_resolve"),
]


class _HubError(Exception):
    """An answer that is no success. The client chooses its exception by `code`, the header X-Error-Code."""

    def __init__(self, status, message, code="", headers=None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, "X-Error-Code": code, **(headers or {})}


class _HangUp(Exception):
    """No answer at all."""


class _Blob:
    def __init__(self, data, is_lfs):
        self.data = data
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"oid sha256:{sha256}".encode() if is_lfs else data
        self.lfs = {"oid": sha256, "size": len(data), "pointerSize": len(pointer)} if is_lfs else None
        self.git_oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
        self.etag = sha256 if is_lfs else self.git_oid


class _Commit:
    def __init__(self, title, files):
        self.title, self.files = title, files
        self.date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        content = [(path, blob.git_oid) for path, blob in files.items()]
        self.oid = hashlib.sha1(repr((title, self.date, content)).encode()).hexdigest()

    def entries(self, expand):
        """Return what the tree calls show of every file and folder, by path; `expand` is "true" or "false"."""
        folders = {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}
        found = {path: {"type": "directory", "path": path, "oid": "0" * 40} for path in folders}
        for path, blob in self.files.items():
            found[path] = {"type": "file", "path": path, "oid": blob.git_oid, "size": len(blob.data), "lfs": blob.lfs}
        if expand == "true":
            last = {"lastCommit": {"id": self.oid, "title": self.title, "date": self.date}}
            found = {path: entry | last for path, entry in found.items()}
        return dict(sorted(found.items()))


class _Repo:
    def __init__(self, url_path, files, private, gated):
        self.url_path, self.private, self.gated = url_path, private, gated
        self.commits = [_Commit("initial commit", files)]
        self.lfs_objects = {blob.etag: blob.data for blob in files.values() if blob.lfs}

    def commit_of(self, revision):
        if revision in ("main", "refs/heads/main"):
            return self.commits[-1]
        for commit in self.commits:
            if commit.oid == revision:
                return commit
        raise _HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def apply(self, files, key, value):
        """Change `files` by one line of a commit request."""
        path = value["path"].rstrip("/")
        if key == "file":
            files[path] = _Blob(base64.b64decode(value["content"]), is_lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.lfs_objects:
                raise _HubError(400, f"The content of the LFS file {path} was not uploaded")
            files[path] = _Blob(self.lfs_objects[value["oid"]], is_lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            for name in [name for name in files if name == path or name.startswith(f"{path}/")]:
                del files[name]
        else:
            raise _HubError(501, f"Not imitated: the commit operation {key}")


def _goes_to_lfs(path, size):
    return size >= _LFS_MIN_SIZE or PurePosixPath(path).suffix in _LFS_SUFFIXES


class _Handler(BaseHTTPRequestHandler):
    """One method for each route; it gets the repository's kind and id and the rest of the path, and replies."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave together: apart, each request waits 40 ms for an acknowledgement

    def do_GET(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.hub = self.server.hub
        with self.hub._lock:
            try:
                self.hub._fail_if_ordered(self.command, unquote(url.path))
                self._route(url.path)
            except _HubError as error:
                self._reply({"error": str(error)}, error.status, error.headers)
            except _HangUp:
                self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *args):
        """Keep the requests out of the test output."""

    def _route(self, path):
        for method, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command.replace("HEAD", "GET"):
                return getattr(self, name)(*(part and unquote(part) for part in match.groups()))
        raise _HubError(501, f"Not imitated: {self.command} {path}")

    def _reply(self, body, status=200, headers=None):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _token(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", READ_TOKEN, WRITE_TOKEN):
            raise _HubError(401, "Invalid credentials in Authorization header")
        return token

    def _require_write(self, code=""):
        if not self._token:
            raise _HubError(401, "Invalid username or password.", code)
        if self._token == READ_TOKEN:
            raise _HubError(403, "This token has no write permission")

    def _repo(self, kind, repo_id, write=False):
        """Return a repository the token may see; as on the Hub, a private one is missing to everybody else."""
        repo = self.hub._repos.get((kind or "model", repo_id))
        if repo is None or (repo.private and not self._token):
            raise _HubError(404 if self._token else 401, "Repository not found", "RepoNotFound")
        if write:
            self._require_write("RepoNotFound")  # what the client makes of a bare 401, but on https only
        return repo

    def _whoami(self):
        if not self._token:
            raise _HubError(401, "Invalid username or password.")
        role = "write" if self._token == WRITE_TOKEN else "read"
        self._reply({"type": "user", "name": _USER, "orgs": [], "auth": {"accessToken": {"role": role}}})

    def _create_repo(self):
        self._require_write()
        wanted = json.loads(self.body)
        kind, repo_id = wanted.get("type", "model"), f"{wanted['organization'] or _USER}/{wanted['name']}"
        is_new = (kind, repo_id) not in self.hub._repos
        if is_new:
            self.hub.add_repo(repo_id, {}, kind, private=wanted.get("visibility") == "private")
        url = f"{self.hub.endpoint}/{self.hub._repos[kind, repo_id].url_path}"
        self._reply({"url": url}, 200 if is_new else 409)

    def _validate_yaml(self):
        self._reply({})

    def _info(self, kind, repo_id, revision):
        repo = self._repo(kind, repo_id)
        commit = repo.commit_of(revision or "main")
        info = {"id": repo_id, "sha": commit.oid, "lastModified": commit.date, "private": repo.private, "tags": []}
        info |= {
            "gated": "manual" if repo.gated else False,
            "siblings": [{"rfilename": path} for path in commit.files],
        }
        card = commit.files["README.md"].data.decode(errors="replace") if "README.md" in commit.files else ""
        self._reply(info | dict(re.findall(r"^(pipeline_tag|library_name): *(\S+)$", card, re.MULTILINE)))

    def _tree(self, kind, repo_id, revision, folder):
        entries = self._repo(kind, repo_id).commit_of(revision).entries(self.query["expand"])
        prefix = f"{folder}/" if folder else ""
        below = [entry for path, entry in entries.items() if path.startswith(prefix)]
        if folder and not below:
            raise _HubError(404, f"{folder} does not exist", "EntryNotFound")
        recursive = self.query["recursive"] == "true"
        self._reply([entry for entry in below if recursive or "/" not in entry["path"].removeprefix(prefix)])

    def _paths_info(self, kind, repo_id, revision):
        form = parse_qs(self.body.decode())
        entries = self._repo(kind, repo_id).commit_of(revision).entries(form["expand"][0])
        self._reply([entries[path] for path in form.get("paths", []) if path in entries])

    def _refs(self, kind, repo_id):
        head = self._repo(kind, repo_id).commits[-1].oid
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": head}
        self._reply({"branches": [main], "tags": [], "converts": [], "pullRequests": []})

    def _preupload(self, kind, repo_id, revision):
        present = self._repo(kind, repo_id, write=True).commit_of(revision).files
        answers = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if _goes_to_lfs(file["path"], file["size"]) else "regular"
            oid = present[file["path"]].etag if file["path"] in present else None
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._reply({"files": answers})

    def _lfs_batch(self, kind, repo_id):
        repo = self._repo(kind, repo_id, write=True)
        base = f"{self.hub.endpoint}/{repo.url_path}.git/info/lfs/objects"
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if wanted["oid"] not in repo.lfs_objects:
                upload, verify = {"href": f"{base}/{wanted['oid']}"}, {"href": f"{base}/verify"}
                wanted["actions"] = {"upload": upload, "verify": verify}
        self._reply({"transfer": "basic", "objects": objects})

    def _lfs_put(self, kind, repo_id, oid):
        # No token: as in a real store, to know the address is the permission.
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _HubError(400, "The content does not have the announced SHA-256")
        self.hub._repos[kind or "model", repo_id].lfs_objects[oid] = self.body
        self._reply({})

    def _lfs_verify(self, kind, repo_id):
        if json.loads(self.body)["oid"] not in self._repo(kind, repo_id, write=True).lfs_objects:
            raise _HubError(404, "The LFS object was not uploaded")
        self._reply({})

    def _commit(self, kind, repo_id, branch):
        repo = self._repo(kind, repo_id, write=True)
        if "create_pr" in self.query:
            raise _HubError(501, "Not imitated: pull requests")
        head = repo.commit_of(f"refs/heads/{branch}")
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if header["value"].get("parentCommit", head.oid) != head.oid:
            raise _HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for operation in operations:
            repo.apply(files, operation["key"], operation["value"])
        commit = _Commit(header["value"]["summary"], files)
        repo.commits.append(commit)
        self._reply({"commitOid": commit.oid, "commitUrl": f"{self.hub.endpoint}/{repo.url_path}/commit/{commit.oid}"})

    def _resolve(self, kind, repo_id, revision, path):
        repo = self._repo(kind, repo_id)
        if repo.gated:
            raise _HubError(403 if self._token else 401, "Access to this repository is restricted", "GatedRepo")
        commit = repo.commit_of(revision)
        headers = {"X-Repo-Commit": commit.oid}
        if path not in commit.files:
            raise _HubError(404, "Entry not found", "EntryNotFound", headers)
        blob = commit.files[path]
        headers["ETag"] = f'"{blob.etag}"'
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": len(blob.data)}
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None:
            return self._reply(blob.data, 200, headers)
        data = blob.data[int(part[1]) : int(part[2]) + 1]
        headers["Content-Range"] = f"bytes {part[1]}-{int(part[1]) + len(data) - 1}/{len(blob.data)}"
        return self._reply(data, 206, headers)


class LoopbackHub:
    """The server and its repositories, which live in memory."""

    def __init__(self):
        self._repos, self._failures, self._lock = {}, [], threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def start(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()

    def env(self, home):
        """Return the variables for a client with the write token and its cache in `home`."""
        switches = [f"HF_HUB_DISABLE_{name}" for name in ("XET", "TELEMETRY", "UPDATE_CHECK", "PROGRESS_BARS")]
        own = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": WRITE_TOKEN, "HF_HOME": str(home)}
        return own | dict.fromkeys(switches, "1") | dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1")

    def connect(self, monkeypatch, home, token=WRITE_TOKEN):
        """Let the client of this process know this Hub alone until the end of the test, with its cache in `home`."""
        import huggingface_hub

        values = {
            "ENDPOINT": self.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        for name, value in {"HF_TOKEN": token, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)  # newer versions keep a client
        huggingface_hub.close_session()  # what there was may know of a proxy

    def add_repo(self, repo_id, files, repo_type="model", private=False, gated=False):
        """Add a repository with one commit. The files of a `gated` one are refused to every token."""
        contents = {path: data if isinstance(data, bytes) else Path(data).read_bytes() for path, data in files.items()}
        blobs = {path: _Blob(data, _goes_to_lfs(path, len(data))) for path, data in contents.items()}
        url_path = repo_id if repo_type == "model" else f"{repo_type}s/{repo_id}"
        self._repos[repo_type, repo_id] = _Repo(url_path, blobs, private, gated)

    def files(self, repo_id, repo_type="model"):
        """Return the content of every file on `main`, by path."""
        return {path: blob.data for path, blob in self._repos[repo_type, repo_id].commits[-1].files.items()}

    def commits(self, repo_id, repo_type="model"):
        """Return the title of every commit, the oldest first."""
        return [commit.title for commit in self._repos[repo_type, repo_id].commits]

    def is_private(self, repo_id, repo_type="model"):
        return self._repos[repo_type, repo_id].private

    def fail_next(self, method, path_part, status, times=1):
        """Answer `status` to the next `times` requests of this method whose path contains `path_part`.

        The status `None` hangs up without an answer.

        The client repeats most requests up to five times after 429, 500, 502, 503 and 504, with pauses of seconds; a
        commit is sent once. Use another status, such as 400 or 403, for a failure that it reports at once. A failed
        PUT reaches the caller as a `RuntimeError` whose cause is the `HfHubHTTPError`.
        """
        self._failures += [(method, path_part, status)] * times

    def _fail_if_ordered(self, method, path):
        for failure in self._failures:
            if failure[0] == method and failure[1] in path:
                self._failures.remove(failure)
                if failure[2] is None:
                    raise _HangUp
                raise _HubError(failure[2], "The test ordered this failure")


def run_python(code, env, cwd=None, timeout=120):
    """Run `code` in a new interpreter that knows of the Hub only what `env` says; return the finished process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return run_fresh(["-c", textwrap.dedent(code)], {**inherited, **env}, cwd, timeout=timeout)


def constants(**values):
    return "".join(f"{name} = {value!r}\n" for name, value in values.items())
