"""Exceptions that end a command without a traceback."""

INTERRUPTED = 75
"""Exit code of a command that a signal stopped and that resumes when it is run again (EX_TEMPFAIL of sysexits.h)."""
LONGEST = 1999
"""Maximum length of a message; longer ones are cut in the middle, because the fix is at the end."""
CUT = " ... "


def printable(text: str) -> str:
    """Return untrusted text as one line that a terminal shows but does not interpret.

    Parameters
    ----------
    text
        Name of an archive member, answer of a server, message of a parser.

    Returns
    -------
    str
        Text in which each run of whitespace is one space, and characters that are not printable (escape sequences, marks that change the
        writing direction, bytes that are not UTF-8) are Python escapes; cut in the middle if it is long.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
    half = (LONGEST - len(CUT)) // 2
    return shown if len(shown) < LONGEST else f"{shown[:half]}{CUT}{shown[-half:]}"


class InputError(Exception):
    """Bad input: one line that names the error, its place and the fix. The command line exits with code 2.

    Untrusted text in the message cannot move the cursor or ring the bell.
    """

    def __init__(self, message: str = ""):
        super().__init__(printable(message))


class Interrupted(BaseException):
    """Request by a signal to stop this process; nothing is lost. The command line exits with code 75."""
