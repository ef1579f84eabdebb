"""Extension of Griffe, which reads the docstrings for the API reference.

Parameters in the style of transformers, "name (`int`, *optional*, defaults to 4)", are shown as code there, so that the
backquotes and asterisks would be seen.
"""

import re

import griffe


TYPED_PARAMETER = re.compile(r"^( *\w+ )\((.+)\):", re.MULTILINE)


class PlainTypes(griffe.Extension):
    """Removes the markup from the types of parameters."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Change the docstring of an object before it is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = TYPED_PARAMETER.sub(_remove_markup, obj.docstring.value)


def _remove_markup(match: re.Match[str]) -> str:
    types = match[2].replace("`", "").replace("*", "")
    return f"{match[1]}({types}):"
