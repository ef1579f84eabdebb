"""The names that `import r2tuning` offers, and their docstrings, from which the API reference is built."""

import inspect
import re

import pytest

import r2tuning


DOCUMENTED = sorted(set(r2tuning.__all__) - {"__version__"})
FUNCTIONS = [name for name in DOCUMENTED if inspect.isfunction(getattr(r2tuning, name))]


def section(docstring, title):
    """The indented lines below "Args:" and the like; empty if there is no such section."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)*)", docstring, flags=re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize(
    "name",
    ["EncodedText", "EncodedVideo", "convert_original_checkpoint", "cut_clip", "load_video_frames", "plot_grounding"],
)
def test_promised_names_are_public(name):
    assert name in r2tuning.__all__


@pytest.mark.parametrize("name", DOCUMENTED)
def test_public_names_have_a_summary(name):
    docstring = getattr(r2tuning, name).__doc__
    assert docstring, "transformers and dataclasses would inherit or invent one"
    summary = inspect.cleandoc(docstring).split("\n\n")[0]
    assert "\n" not in summary
    assert summary.endswith((".", ":"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_document_their_arguments_and_result(name):
    function = getattr(r2tuning, name)
    signature = inspect.signature(function)
    docstring = inspect.getdoc(function)
    documented = re.findall(r"^ {4}(\w+):", section(docstring, "Args"), flags=re.MULTILINE)
    assert documented == list(signature.parameters)
    if signature.return_annotation not in (None, signature.empty):
        assert section(docstring, "Returns")
