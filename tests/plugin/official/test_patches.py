"""The patches as files; tests/plugin/upstream applies them to the real code."""

import re
from pathlib import Path

import pytest

PATCHES = Path(__file__).resolve().parents[3] / "patches"
FILES = sorted(PATCHES.glob("**/*.patch"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_patch_is_clean_its_hunks_are_whole_and_the_readme_names_it(file):
    patch = file.read_text()
    added = [line[1:] for line in patch.splitlines() if line.startswith("+")]
    assert max(map(len, added)) <= 100
    assert [line for line in added if line != line.rstrip()] == []
    for hunk in re.split(r"^(?=@@|diff )", patch, flags=re.M):
        head = re.match(r"@@ -\d+,(\d+) \+\d+,(\d+) @@\n", hunk)
        if head:
            lines = hunk[head.end() :].splitlines()
            assert sum(line[0] in " -" for line in lines) == int(head[1])
            assert sum(line[0] in " +" for line in lines) == int(head[2])
    assert file.name in (PATCHES / "README.md").read_text()
