"""Pages of the site that live elsewhere in the repository; README is its start."""

import os
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ELSEWHERE = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "patches" / "README.md": DOCS / "patches.md",
    ROOT / "CONTRIBUTING.md": DOCS / "contributing.md",
    ROOT / "CHANGELOG.md": DOCS / "changelog.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r"(?<=\]\()docs/(?=\S+\.(?:svg|png)\))")


def on_files(files, config):
    """Add the pages."""
    for source, page in ELSEWHERE.items():
        text = PICTURE.sub("", _linked(source.read_text("utf-8"), source, page))
        files.append(File.generated(config, page.name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Mend the links of a page of docs/ that lead out of it."""
    path = page.file.abs_src_path
    return markdown if path is None else _linked(markdown, Path(path), Path(path))


def _linked(text, source, page):
    """Text with its links as seen from a page of the site; what is not on the site is named."""

    def link(match):
        target = (source.parent / match[2]).resolve()
        target = ELSEWHERE.get(target / "README.md" if target.is_dir() else target, target)
        if DOCS not in target.parents:
            return match[1]
        return f"[{match[1]}]({os.path.relpath(target, page.parent)}{match[3] or ''})"

    return LINK.sub(link, text)
