"""The one error that people see without a traceback."""


class InputError(Exception):
    """Bad input: one line that names what is wrong, where, and the mend. The command line exits with code 2."""
