"""Pages of the site that live elsewhere in the repository: README is its start."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {
    "README.md": "index.md",
    "patches/README.md": "patches.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files, config):
    """Add the pages, with their links as seen from docs/."""
    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text("utf-8")
        folder = (ROOT / source).parent

        def linked(match, folder=folder):
            target = (folder / match[1]).resolve()
            if target.is_dir():
                target /= "README.md"
            name = target.relative_to(ROOT).as_posix()
            return ELSEWHERE.get(name, name.removeprefix("docs/"))

        files.append(File.generated(config, page, content=LINK.sub(linked, text)))
    return files
