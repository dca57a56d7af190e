"""What ends a command without a traceback."""

INTERRUPTED = 75
"""Exit code of a command that a signal stopped and that goes on when it is given again (EX_TEMPFAIL of sysexits.h)."""
LONGEST = 1999
"""Characters of a message; longer ones are cut in the middle, for the fix stands at the end."""
CUT = " ... "


def printable(text: str) -> str:
    """Text that may come from a stranger's file or server, as one line that a terminal shows and does not obey.

    Parameters
    ----------
    text
        The name of an archive's member, an answer of a server, the message of a parser.

    Returns
    -------
    str
        The same with runs of whitespace as one blank, and with characters that are not printable, such as escape sequences, marks that turn
        the direction of writing, and bytes that were no UTF-8, as the escapes of Python; cut in the middle if it is long.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    half = (LONGEST - len(CUT)) // 2
    return shown if len(shown) < LONGEST else f"{shown[:half]}{CUT}{shown[-half:]}"


class InputError(Exception):
    """Bad input: one line that names what is wrong, where, and the fix. The command line exits with code 2.

    Whatever a stranger's file put into the message, it cannot move the cursor or ring the bell.
    """

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


class Interrupted(BaseException):
    """A signal asked this process to stop, and nothing is lost by it. The command line exits with code 75."""
