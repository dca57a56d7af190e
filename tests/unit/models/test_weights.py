"""Weights that a run published, with a record that someone has touched."""

import json

import pytest
import torch

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.models.weights import load_weights, save_weights
from m2mkd.study.phase import RECORD, WEIGHTS


@pytest.fixture
def folder(tmp_path):
    """The folder of a run, whose weights and record are whole."""
    folder = tmp_path / "pretrain_meta" / "0123"
    folder.mkdir(parents=True)
    save_weights(folder, {"a": torch.arange(3.0)}, "pretrain_meta/0123")
    record(folder)
    return folder


def record(folder, **changes):
    whole = {"id": "pretrain_meta/0123", "outputs": {WEIGHTS: sha256(folder / WEIGHTS)}}
    (folder / RECORD).write_text(json.dumps(whole | changes))


def test_weights_are_those_of_the_record(folder):
    assert load_weights(folder)["a"].tolist() == [0, 1, 2]


RECORDS = ["", "[]", "7", "{}", '{"id": 7}', '{"id": {}, "outputs": []}', '{"id": "a", "outputs": {"model.safetensors": 3}}', "[" * 100_000]


@pytest.mark.parametrize("text", RECORDS, ids=range(len(RECORDS)))
def test_a_record_of_another_form_is_one_line(folder, text):
    (folder / RECORD).write_text(text)
    with pytest.raises(InputError, match=r"remove .* and run the workflow again"):
        load_weights(folder)


def test_a_recorded_file_that_is_none_of_weights_is_one_line(folder):
    (folder / WEIGHTS).write_bytes(b"0123456789" * 10)
    record(folder)
    with pytest.raises(InputError, match="is recorded, but is not a file of weights"):
        load_weights(folder)
