"""What ends a command without a traceback."""

INTERRUPTED = 75
"""Exit code of a command that a signal stopped and that goes on when it is given again (EX_TEMPFAIL of sysexits.h)."""
LONGEST = 2000
"""Characters of a message; longer ones are cut in the middle, for the fix stands at the end."""


class InputError(Exception):
    """Bad input: one line that names what is wrong, where, and the fix. The command line exits with code 2.

    Whatever a stranger's file put into the message, it cannot move the cursor or ring the bell.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Interrupted(BaseException):
    """A signal asked this process to stop, and nothing is lost by it. The command line exits with code 75."""


def one_line(text: str) -> str:
    """The text with its line breaks as spaces and everything else that is not printable as an escape, cut in the middle if it is long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    shown = text.translate({ord(space): " " for space in "\n\r\t"})
    return shown if shown.isprintable() else "".join(one if one.isprintable() else repr(one)[1:-1] for one in shown)
