"""Error messages of functions, reworded for a command: arguments become the command's options."""

import re
from collections.abc import Iterable, Mapping


__all__ = ["spell_options"]

# A name in backquotes, with or without a value, but not "`name` is ...": that is a field of a file.
ARGUMENT = re.compile(r"`([a-z_]+)(=[^`]*)?`(?! is )")


def spell_options(error: Exception, options: Iterable[str], other_names: Mapping[str, str] | None = None) -> str:
    """The message of an error on one line, with the names of options in place of a function's arguments.

    Args:
        error: Its message names arguments in backquotes, such as `missing_videos="skip"`.
        options: Arguments that are options of the command, such as `--missing-videos`; other names stay unchanged.
        other_names: Replacements for arguments whose option has another name.
    """
    options, other_names = set(options), other_names or {}

    def spell(argument: re.Match[str]) -> str:
        quoted, name = argument[0], argument[1]
        other_name = other_names.get(quoted.strip("`"))
        if other_name is not None:
            return f"`{other_name}`"
        if name not in options:
            return quoted
        value = (argument[2] or "").replace("=", " ").replace('"', "")
        return f"`--{name.replace('_', '-')}{value}`"

    return " ".join(ARGUMENT.sub(spell, str(error)).split())
