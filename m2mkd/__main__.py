"""``python -m m2mkd``: the command line."""

from m2mkd.cli import main

main()
