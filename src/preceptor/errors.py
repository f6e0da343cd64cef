"""The user's mistakes. The command line prints one of these as one line and leaves with exit code 2."""


class UserError(Exception):
    """Something the user can mend. The message is one line: the file, the row, what is wrong, what to do."""


def need_extra(library: str, extra: str) -> UserError:
    """The error for a library that an optional extra brings."""
    return UserError(f"{library} is not installed; run: pip install 'preceptor[{extra}]'")
