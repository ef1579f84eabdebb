"""New Python processes that start quickly: each is forked from a server that has imported torch and the like.

What reads its settings from the environment when it is imported (huggingface_hub, transformers, datasets ...) and our own
packages are not preloaded, so a process sees them as a new interpreter would.
"""

import atexit
import contextlib
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.elastic.agent.server",
    "torch.distributed.tensor",
    "torch.utils.data",
    "torch.utils.tensorboard",
    "av",
    "h5py",
    "httpx",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "pandas",
    "PIL.Image",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "safetensors.torch",
    "tokenizers",
    "tqdm.auto",
    "yaml",
]

# The beginning of a program for which our installed packages must not be found: a finder refuses their names.
WITHOUT_PACKAGE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in ("modeling_r2tuning", "r2tuning", "r2tuning_cli", "dataset_scripts"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
"""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class FreshPython:
    """A running process; its output goes to temporary files.

    Args:
        arguments: Of `python`: `-c CODE ...`, `-m MODULE ...` or a script and its arguments.
        env: All variables of the environment; default: those of this process.
        cwd: Working directory; default: that of this process.
        stdin: Text to read.
    """

    def __init__(self, arguments, env=None, cwd=None, stdin=""):
        self.args = [str(argument) for argument in arguments]
        self._folder = tempfile.TemporaryDirectory()
        for name, text in {"stdin": stdin, "stdout": "", "stderr": ""}.items():
            Path(self._folder.name, name).write_text(text, encoding="utf-8")
        environment = dict(os.environ if env is None else env)
        directory = os.fspath(cwd or os.getcwd())
        self._process = _context.Process(target=_run, args=(self.args, environment, directory, self._folder.name))
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """Return the exit status, or `None` while the process runs."""
        return self._process.exitcode

    def wait(self, timeout=120):
        """Wait for the end; return the exit status, which is negative after a signal."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout, *self.output())
        return self._process.exitcode

    def kill(self):
        """Kill the process, not those that it started."""
        self._process.kill()

    def kill_group(self):
        """Kill the process and all that it started."""
        os.killpg(self.pid, signal.SIGKILL)

    def output(self):
        """Return what was written to stdout and stderr so far."""
        return tuple(Path(self._folder.name, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))


def run_fresh(arguments, env=None, cwd=None, stdin="", timeout=120):
    """Run a process to its end; return it as `subprocess.run` does."""
    process = FreshPython(arguments, env, cwd, stdin)
    status = process.wait(timeout)
    return subprocess.CompletedProcess(process.args, status, *process.output())


@contextlib.contextmanager
def quick_spawn():
    """Fork the processes that our own code starts by "spawn" from the same server."""

    def get_context(method):
        assert method == "spawn", "a process forked from one that has used CUDA cannot use it"
        return _context

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", get_context)
        yield


def _run(arguments, env, cwd, folder):
    """Be what `python arguments` is; runs in the new process."""
    gc.freeze()
    gc.disable()
    os.setsid()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = Path(folder, name).open("a" if number else "r", encoding="utf-8")  # noqa: SIM115 (stays open)
        os.dup2(stream.fileno(), number)  # for what is written past Python and by processes that are started here
        setattr(sys, name, stream)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Without the folders that pytest adds; an environment may lie inside the checkout.
    installed = [path for path in sys.path if path not in ("", str(ROOT)) and not path.startswith(str(ROOT / "tests"))]
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *installed]
    try:
        _run_main(arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves them out
        sys.stdout.flush()


def _run_main(arguments):
    first, *rest = arguments
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, "")
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif first == "-m":
        sys.argv = rest
        sys.path.insert(0, os.getcwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")
