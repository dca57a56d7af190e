"""No change moves a published key unnoticed: new fields with a default, and variants that a run does not use, are part of no key."""

import json

from tests.golden.keys import FILE, keys


def test_every_published_key_is_as_it_was():
    assert keys() == json.loads(FILE.read_text()), (
        "keys have moved, and what was finished counts for nothing; if that is meant: python -m tests.golden.keys"
    )
