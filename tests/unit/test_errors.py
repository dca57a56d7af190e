"""What is said about bad input is one line, whatever the input holds."""

import pickle

import pytest

from m2mkd.errors import InputError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, caf\u00e9, \u65e5\u672c", "plain words, caf\u00e9, \u65e5\u672c"),
        ("two\nlines\r\n\tand  a tab ", "two lines and a tab"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("\x9b31m", r"\x9b31m"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("caf\udce9", r"caf\udce9"),
        ("back\x08space\x00\x7f", r"back\x08space\x00\x7f"),
    ],
)
def test_what_steers_a_terminal_is_shown_and_not_obeyed(text: str, shown: str):
    assert printable(text) == shown
    assert str(InputError(text)) == shown
    assert str(pickle.loads(pickle.dumps(InputError(text)))) == shown, "it crosses into another process"
