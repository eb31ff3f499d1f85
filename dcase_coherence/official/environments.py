"""Which environment a year's official recipe needs, said before it fails in its depths."""

from __future__ import annotations

import contextlib
from typing import Iterator

from dcase_coherence.official.errors import InputError

#: The recipes that were run, and the setuptools that builds the packages of their environments.
SETUPTOOLS = {
    "dcase2021_task4_baseline": "setuptools<60",
    "dcase2022_task4_baseline": "setuptools==59.5.0",
    "dcase2023_task4_baseline": "setuptools<60",
    "dcase2024_task4_baseline": "setuptools<60",
}

#: What a recipe imports and its file cannot bring: soxbindings of desed needs the libsox headers.
BESIDES = {"dcase2024_task4_baseline": ("desed",)}

#: The recipe that the shims bring to today's libraries.
SHIMMED = "dcase2021_task4_baseline"


def how_to_build(recipe: str) -> str:
    """The file of a recipe's environment and the line that builds it, in this project's folder.

    Example:
        >>> print(how_to_build("dcase2023_task4_baseline"))
        its environment is recipes/envs/requirements-dcase2023.txt, built with: \
python3.8 -m venv env-dcase2023 && \
env-dcase2023/bin/pip install "pip==24.3.1" "setuptools<60" wheel && \
env-dcase2023/bin/pip install -r recipes/envs/requirements-dcase2023.txt && \
env-dcase2023/bin/pip install .
    """
    name = recipe.split("_")[0]
    file, pip = f"recipes/envs/requirements-{name}.txt", f"env-{name}/bin/pip install"
    steps = (
        f"python3.8 -m venv env-{name}",
        f'{pip} "pip==24.3.1" "{SETUPTOOLS[recipe]}" wheel',
        f"{pip} -r {file}",
        f"{pip} {' '.join(('.', *BESIDES.get(recipe, ())))}",
    )
    return f"its environment is {file}, built with: {' && '.join(steps)}"


def refuse_lightning(recipe: str) -> None:
    """Stop where the recipe of a year was never run on the Lightning that is installed.

    Raises:
        InputError: for 2022 to 2024 on Lightning 2, whose Trainer does not take their arguments.
    """
    import pytorch_lightning

    found = pytorch_lightning.__version__
    if recipe in SETUPTOOLS and recipe != SHIMMED and int(found.split(".")[0]) >= 2:
        raise InputError(
            f"{recipe} does not run on Lightning {found}, which is installed; "
            f"{how_to_build(recipe)}"
        )


@contextlib.contextmanager
def missing_packages(recipe: str) -> Iterator[None]:
    """Say which package the official code lacks, and which environment has it.

    Raises:
        InputError: when a module is imported in the block that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", "local", "desed_task"):  # the checkout's own, no package
            raise
        where = f"; {how_to_build(recipe)}" if recipe in SETUPTOOLS else "; install it"
        raise InputError(
            f"{recipe} needs the package {package!r}, which is not installed{where}"
        ) from error
