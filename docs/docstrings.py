"""What docstrings say in Sphinx's words, in Markdown: roles become links, formulas MathML."""

import re

import griffe
from latex2mathml.converter import convert

ROLE = re.compile(r":(?:func|class|mod|meth|attr|data):`~?([^`]+)`")
FORMULA = re.compile(r"^\.\. math:: (.*(?:\n[ \t]+.*)*)", re.MULTILINE)


class Markdown(griffe.Extension):
    """Rewrite every docstring of the package once it is loaded."""

    def on_package(self, *, pkg, **kwargs):
        """Walk through the package."""
        for module in _modules(pkg):
            for one in (module, *_members(module)):
                if one.docstring:
                    one.docstring.value = _markdown(one)


def _modules(module):
    yield module
    for one in module.modules.values():
        if not one.is_alias:
            yield from _modules(one)


def _members(of):
    for one in of.members.values():
        if not one.is_alias and not one.is_module:
            yield one
            yield from _members(one)


def formula(match):
    """MathML of the LaTeX that a pattern has matched."""
    return f'<div class="formula">{convert(" ".join(match[1].split()), display="block")}</div>'


def _markdown(of):
    def link(match):
        title, _, target = " ".join(match[1].split()).rstrip(">").partition(" <")
        name = _full_path(of, target.lstrip("~") or title)
        return f'<autoref optional identifier="{name}">`{title}`</autoref>'

    text = FORMULA.sub(formula, ROLE.sub(link, of.docstring.value))
    # The section that may hold doctests has this name.
    return re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def _full_path(of, name):
    """Full path of a name as it is seen from an object: its own, its module's, its package's."""
    package = of.package
    place = of
    while place is not None:
        path = f"{place.path}.{name}".removeprefix(f"{package.path}.")
        try:
            return package[path].path
        except (KeyError, griffe.AliasResolutionError):
            place = place.parent
    return name
