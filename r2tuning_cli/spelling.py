"""Messages of the library, in which arguments are spelled as the options of the command."""

import re
from collections.abc import Mapping


# An argument in backquotes, with or without a value. A field of a file, which may have the same name, "is" wrong.
ARGUMENT = re.compile(r"`([a-z_]+)(=[^`]*)?`(?! is )")


def spell_options(message: object, names: Mapping[str, str]) -> str:
    """A message on one line, with the arguments that it names replaced by options.

    Args:
        message: Names arguments in backquotes, such as `window_sec` or `missing_videos="skip"`.
        names: Option by argument, such as `{"window_sec": "--window-sec"}`, or by argument with value, such as
            `{"private=True": "--private"}`. Other arguments stay as they are.
    """

    def spell(argument: re.Match[str]) -> str:
        whole = argument[0].strip("`")
        if whole in names:
            return f"`{names[whole]}`"
        if argument[1] not in names:
            return argument[0]
        value = (argument[2] or "").lstrip("=").replace('"', "")
        return f"`{names[argument[1]]} {value}".rstrip() + "`"

    return " ".join(ARGUMENT.sub(spell, str(message)).split())


__all__ = ["spell_options"]
