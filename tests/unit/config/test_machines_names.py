"""Names become parts of paths, rules and shell lines, so that only harmless ones are taken."""

import re

import pytest
import yaml

from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.study.files import find_planned, read_study
from m2mkd.study.plan import build_study
from tests.conftest import ROOT

BAD = ["a;touch x;", "a b", "$(id)", "../smoke", "-rf", ".hidden", "ünicode", "a\nb", "", "x" * 101]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A folder with a configuration that a test may change."""
    for part in ("scales", "experiments"):
        (tmp_path / "config" / part).mkdir(parents=True)
        for file in (ROOT / "config" / part).iterdir():
            (tmp_path / "config" / part / file.name).write_bytes(file.read_bytes())
    for file in ROOT.glob("config/*.*"):
        (tmp_path / "config" / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config"


@pytest.mark.parametrize("name", [name for name in BAD if "/" not in name and 0 < len(name.encode()) < 200])
@pytest.mark.parametrize("folder", ["scales", "experiments"])
def test_a_file_of_a_harmful_name_is_refused(config, folder, name):
    original = "smoke" if folder == "scales" else "vmoe_base"
    (config / folder / f"{name}.yaml").write_bytes((config / folder / f"{original}.yaml").read_bytes())
    settings = {"scale": name} if folder == "scales" else {"scale": "smoke", "experiments": [name]}
    with pytest.raises(InputError) as refused:
        build_study(load.settings(settings))
    assert len(str(refused.value).splitlines()) == 1 and "cannot be the name" in str(refused.value)


@pytest.mark.parametrize("name", BAD)
def test_a_variant_of_a_harmful_name_is_refused(config, name):
    path = config / "experiments/vmoe_base.yaml"
    content = yaml.safe_load(path.read_text())
    content["variants"][name] = content["variants"]["end_to_end"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="variants"):
        build_study(load.settings({"scale": "smoke", "experiments": ["vmoe_base"]}))


@pytest.mark.parametrize("name", BAD)
def test_no_plan_is_looked_for_outside_of_the_results(name):
    with pytest.raises(InputError, match="cannot be the name of a scale"):
        find_planned("evaluate/0123456789abcdef", name)


@pytest.mark.parametrize("key", ["../../etc", "a; touch x", "0123456789abcde", "0123456789ABCDEF"])
def test_a_study_that_is_no_key_is_refused(key):
    with pytest.raises(InputError, match="not the key of a study"):
        read_study("smoke", key)


def test_every_value_in_a_shell_line_is_quoted():
    bare = {"params.arguments"}  # made with shlex.quote
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for line in re.findall(r'^\s*"?.*m2mkd (?:run|data|compile|report|track|crate) .*$', path.read_text(), flags=re.MULTILINE):
            for field in re.findall(r"\{([^{}]+)\}", line):
                assert field.endswith(":q") or field in bare, f"{path.name}: {line.strip()}"
