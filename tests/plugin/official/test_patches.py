"""The patches as files; tests/plugin/upstream applies them to the real code."""

import re
from pathlib import Path

import pytest

PATCHES = Path(__file__).resolve().parents[3] / "patches"
FILES = sorted(PATCHES.glob("**/*.patch"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def patch(request):
    return request.param.read_text()


def test_added_lines_are_short_and_clean(patch):
    added = [line[1:] for line in patch.splitlines() if line.startswith("+")]
    assert max(map(len, added)) <= 100
    assert [line for line in added if line != line.rstrip()] == []


def test_the_hunks_are_as_long_as_their_heads_say(patch):
    for hunk in re.split(r"^(?=@@|diff )", patch, flags=re.M):
        head = re.match(r"@@ -\d+,(\d+) \+\d+,(\d+) @@\n", hunk)
        if head:
            lines = hunk[head.end() :].splitlines()
            assert sum(line[0] in " -" for line in lines) == int(head[1])
            assert sum(line[0] in " +" for line in lines) == int(head[2])


def test_the_readme_names_every_patch_and_its_added_lines():
    readme = (PATCHES / "README.md").read_text()
    for file in FILES:
        assert file.name in readme, file.name
    patch = (PATCHES / "dcase2021_task4_baseline.patch").read_text()
    by_file = dict(
        re.findall(
            r"^\+\+\+ b/recipes/dcase2021_task4_baseline/(\S+)\n((?:[^d].*\n)*)", patch, re.M
        )
    )
    for name, hunks in by_file.items():
        count = sum(line.startswith("+") for line in hunks.splitlines())
        assert f"`{name}` (+{count}" in readme
