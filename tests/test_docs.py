"""Every Python block of the documentation runs as it stands; what it says of itself agrees."""

import os
import re
from pathlib import Path

import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from torch import nn

from dcase_coherence import __version__

ROOT = Path(__file__).resolve().parent.parent
SYBIL = Sybil([PythonCodeBlockParser()])
PAGES = sorted([ROOT / "README.md", ROOT / "patches" / "README.md", *ROOT.glob("docs/*.md")])


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d((1, 8)))
        self.dense = nn.Linear(4, 3)

    def forward(self, x):
        return torch.sigmoid(self.dense(self.cnn(x).squeeze(-1).transpose(1, 2)))


class Official(Student):
    def forward(self, x):
        strong = super().forward(x)
        return strong.transpose(1, 2), strong.mean(dim=1)


def readme():
    torch.manual_seed(0)
    batches = [(torch.randn(6, 1, 20, 8), (torch.rand(6, 20, 3) > 0.5).float()) for _ in range(4)]
    return {
        **{
            "model": Student(),
            "student": Official(),
            "criterion": nn.BCELoss(),
            "batches": batches,
            "epochs": 2,
        },
        **{"n_strong": 2, "SEDTask4_2021": nn.Module},
    }


def upstream():
    """A checkout of the pinned version in the place of `DESED_task`, and small networks."""
    checkout = os.environ.get("DESED_TASK")
    if not checkout:
        pytest.skip("set DESED_TASK to a checkout of DESED_task")
    pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")
    import types

    from dcase_coherence.official import trainers

    folder = trainers.recipe_folder(checkout, "dcase2021_task4_baseline")
    if not Path("DESED_task").exists():
        Path("DESED_task").symlink_to(Path(checkout).resolve())
    return {
        "config": trainers.default_config(folder, "sed_trainer"),
        "encoder": types.SimpleNamespace(labels=list(range(10))),
        "make_optimizer": lambda student: torch.optim.Adam(student.parameters(), 1e-3),
    }


NAMES = {"README.md": readme, "docs/use.md": readme, "docs/upstream.md": upstream}


def run(page, tmp_path, monkeypatch):
    document = SYBIL.parse(page)
    monkeypatch.chdir(tmp_path)
    name = page.relative_to(ROOT).as_posix()
    document.namespace.update(NAMES.get(name, dict)())
    for example in document.examples():
        example.evaluate()
    return document.namespace


WITH_CODE = [page for page in PAGES if "```python" in page.read_text("utf-8")]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_run(page, tmp_path, monkeypatch):
    run(page, tmp_path, monkeypatch)


def test_the_example_of_z_brings_the_term_in_during_the_first_epoch(tmp_path, monkeypatch):
    names = run(ROOT / "docs" / "use.md", tmp_path, monkeypatch)
    assert names["regularizer"].metrics["weight"] == pytest.approx((1 + 3 / 4) / 5)
    assert names["loss"].requires_grad


def test_the_examples_of_the_readme_add_terms_with_a_gradient(tmp_path, monkeypatch):
    names = run(ROOT / "README.md", tmp_path, monkeypatch)
    posteriors, labels, strong = (names[name] for name in ("posteriors", "labels", "strong"))
    assert names["term"](posteriors[strong], labels[strong]) > 0
    assert names["regularizer"].metrics["weight"] == pytest.approx(0.5 / 5)
    assert names["loss"].requires_grad


def test_blocks_are_found():
    assert {page.name for page in WITH_CODE} >= {"README.md", "upstream.md"}


def test_the_version_is_the_same_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released, date = re.search(r"^## \[(\d.+)\] - (.+)$", changes, re.MULTILINE).groups()
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == released == __version__
    assert re.search(r"^date-released: (.+)$", citation, re.MULTILINE)[1] == date


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_of_the_repository(page):
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text("utf-8"))
    # patches.md, contributing.md and the start of the site are made of files from elsewhere.
    made = {ROOT / "docs" / name for name in ("patches.md", "contributing.md", "index.md")}
    for link in links:
        path = (page.parent / link).resolve()
        assert path.exists() or path in made, link
