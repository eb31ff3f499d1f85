"""Which environment a year's official recipe needs, said before it fails in its depths."""

from __future__ import annotations

import contextlib
from typing import Iterator

from dcase_coherence.official.errors import InputError

#: The recipes that were run; the shims bring the first to today's libraries.
RECIPES = [f"dcase{year}_task4_baseline" for year in (2021, 2022, 2023, 2024)]


def how_to_build(recipe: str) -> str:
    """The file of a recipe's environment and the line that builds it, in this project's folder."""
    name = recipe.split("_")[0]
    file, pip = f"recipes/envs/requirements-{name}.txt", f"env-{name}/bin/pip install"
    setuptools = "setuptools==59.5.0" if name == "dcase2022" else "setuptools<60"
    # What the recipe imports and its file cannot bring: soxbindings needs the libsox headers.
    besides = " desed" if name == "dcase2024" else ""
    return (
        f"its environment is {file}, built with: python3.8 -m venv env-{name} && "
        f'{pip} "pip==24.3.1" "{setuptools}" wheel && {pip} -r {file} && {pip} .{besides}'
    )


def refuse_lightning(recipe: str) -> None:
    """Stop the recipes of 2022 to 2024 on Lightning 2, whose Trainer lacks their arguments."""
    import pytorch_lightning

    release = pytorch_lightning.__version__
    if recipe in RECIPES[1:] and int(release.split(".")[0]) >= 2:
        raise InputError(
            f"{recipe} does not run on Lightning {release}, which is installed; "
            f"{how_to_build(recipe)}"
        )


@contextlib.contextmanager
def missing_packages(recipe: str) -> Iterator[None]:
    """Say which package the official code of the block lacks, and which environment has it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "local", "desed_task"):  # the checkout's own, no package
            raise
        where = how_to_build(recipe) if recipe in RECIPES else "install it"
        raise InputError(
            f"{recipe} needs the package {package!r}, which is not installed; {where}"
        ) from error
