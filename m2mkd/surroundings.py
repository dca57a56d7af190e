"""Repair of this process's environment before anything else happens."""

import locale
import os
import pwd
import sys
import tempfile
from pathlib import Path


def settle() -> None:
    """Cope with closed streams, limited terminals and locales, and users that the system does not know."""
    _open_streams()
    _speak_utf8()
    _name_user()
    # A number then means the same GPU to CUDA as to nvidia-smi, also with several GPU models.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def _open_streams() -> None:
    """Open closed standard streams on the null device; otherwise the next opened file takes their number and receives printed text."""
    closed = []
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            closed.append(number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number in closed or getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _speak_utf8() -> None:
    """Read and write files in UTF-8 whatever the locale, and print a question mark for characters that the terminal cannot show."""
    if not sys.flags.utf8_mode and not _is_utf8(locale.getencoding()) and "PYTHONUTF8" not in os.environ:
        os.environ["PYTHONUTF8"] = "1"  # read only when Python starts, so Python restarts; child processes inherit it
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    shown = locale.nl_langinfo(locale.CODESET)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=shown if stream.isatty() and not _is_utf8(shown) else None, errors="replace")


def _is_utf8(encoding: str) -> bool:
    return encoding.lower().replace("-", "") == "utf8"


def _name_user() -> None:
    """Give a user unknown to the system, as in a container with any uid, a name and a home: libraries ask for both."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        for name in ("USER", "LOGNAME"):
            if not os.environ.get(name):
                os.environ[name] = f"uid-{os.getuid()}"
        home = os.environ.get("HOME")
        if not home or not os.access(home, os.W_OK):
            folder = Path(tempfile.gettempdir(), f"m2mkd-home-{os.getuid()}")
            folder.mkdir(mode=0o700, exist_ok=True)
            os.environ["HOME"] = str(folder)
