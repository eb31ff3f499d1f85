"""Lay out the pages of the site, README first, for the program that builds it.

    python docs/pages.py && zensical build

What lives elsewhere in the repository becomes a page, and so does each public name that `nav` has;
links that lead out of docs/ are named, and formulas become MathML, which needs no script. All of it
goes to build/pages.
"""

import os
import re
import shutil
from pathlib import Path

from docstrings import formula

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = ROOT / "build" / "pages"
ELSEWHERE = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "patches" / "README.md": DOCS / "patches.md",
    ROOT / "CONTRIBUTING.md": DOCS / "contributing.md",
    ROOT / "CHANGELOG.md": DOCS / "changelog.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r"(?<=\]\()docs/(?=\S+\.(?:svg|png)\))")
FORMULA = re.compile(r"^```math\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def laid_out(text, source, page):
    """Text as it stands on a page of the site."""

    def link(match):
        target = (source.parent / match[2]).resolve()
        target = ELSEWHERE.get(target / "README.md" if target.is_dir() else target, target)
        if DOCS not in target.parents:
            return match[1]
        return f"[{match[1]}]({os.path.relpath(target, page.parent)}{match[3] or ''})"

    return FORMULA.sub(formula, PICTURE.sub("", LINK.sub(link, text)))


def main():
    """Write the pages anew."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(DOCS, PAGES, ignore=shutil.ignore_patterns("*.py", "*.lock"))
    for name in re.findall(r"reference/(\w+)\.md", (ROOT / "mkdocs.yml").read_text("utf-8")):
        module = "dcase_coherence.settings" if name == "Settings" else "dcase_coherence"
        (PAGES / "reference" / f"{name}.md").write_text(
            f"# {name}\n\n::: {module}.{name}\n", "utf-8"
        )
    for source, page in {**{path: path for path in DOCS.rglob("*.md")}, **ELSEWHERE}.items():
        place = PAGES / page.relative_to(DOCS)
        # The tables of results take the room of the list of headings.
        head = "---\nhide: [toc]\n---\n\n" * (page.name == "results.md")
        place.write_text(head + laid_out(source.read_text("utf-8"), source, page), "utf-8")


if __name__ == "__main__":
    main()
