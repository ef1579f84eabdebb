"""Errors of functions, told by a command: what a user must do is spelled as the command's own option."""

import re
from collections.abc import Iterable, Mapping


__all__ = ["spell_options"]

# A name in backquotes, with or without a value; a field of a file, which may have the same name, "is" something wrong
ARGUMENT = re.compile(r"`([a-z_]+)(=[^`]*)?`(?! is )")


def spell_options(error: Exception, options: Iterable[str], other_names: Mapping[str, str] | None = None) -> str:
    """The message of an error on one line, where an argument of a function has the name of the option for it.

    Args:
        error: Its message names arguments in backquotes, such as `missing_videos="skip"`.
        options: Arguments that the command has as `--missing-videos` and so on; other names are left as they are.
        other_names: What takes the place of the arguments that the command calls otherwise.
    """
    options, other_names = set(options), other_names or {}

    def spell(argument: re.Match) -> str:
        name, value = argument[1], (argument[2] or "").replace("=", " ").replace('"', "")
        other_name = other_names.get(argument[0].strip("`"))
        if other_name is None and name not in options:
            return argument[0]
        return f"`{other_name or '--' + name.replace('_', '-') + value}`"

    return " ".join(ARGUMENT.sub(spell, str(error)).split())
