"""What ends a command without a traceback."""

INTERRUPTED = 75
"""Exit code of a command that a signal stopped and that goes on when it is given again (EX_TEMPFAIL of sysexits.h)."""


class InputError(Exception):
    """Bad input: one line that names what is wrong, where, and the fix. The command line exits with code 2."""


class Interrupted(BaseException):
    """A signal asked this process to stop, and nothing is lost by it. The command line exits with code 75."""
