from pathlib import Path

import pytest

from dcase_coherence.official import environments
from dcase_coherence.official.errors import InputError

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("recipe", environments.RECIPES)
def test_the_line_is_that_of_the_environment_s_own_file(recipe):
    sentence = environments.how_to_build(recipe)
    file = ROOT / sentence.split("environment is ")[1].split(",")[0]
    head = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    steps = sentence.split("built with: ")[1].split(" && ")
    assert len(steps) == 4
    assert steps == [line for line in head if line.startswith(("python3.8", "env-"))]


@pytest.mark.parametrize(
    ("recipe", "lightning", "refused"),
    [
        ("dcase2021_task4_baseline", "2.6.6", False),
        ("dcase2022_task4_baseline", "1.5.1", False),
        ("dcase2022_task4_baseline", "2.0.0", True),
        ("my_own", "2.6.6", False),
    ],
)
def test_lightning_2_is_refused_for_the_recipes_of_lightning_1(
    monkeypatch, recipe, lightning, refused
):
    monkeypatch.setattr(pytest.importorskip("pytorch_lightning"), "__version__", lightning)
    if not refused:
        environments.refuse_lightning(recipe)
        return
    with pytest.raises(InputError, match=r"Lightning 2\.0\.0.*requirements-dcase2022\.txt"):
        environments.refuse_lightning(recipe)


def test_a_missing_package_is_named_but_no_module_of_the_checkout():
    output = r"needs the package 'no_such', which is not installed; "
    known = environments.missing_packages("dcase2023_task4_baseline")
    with pytest.raises(InputError, match=output + r".*requirements-dcase2023\.txt"), known:
        raise ModuleNotFoundError("No module named 'no_such.part'", name="no_such.part")
    own = environments.missing_packages("my_own")
    with pytest.raises(InputError, match=output + "install it"), own:
        import no_such  # noqa: F401
    with pytest.raises(ModuleNotFoundError), environments.missing_packages("my_own"):
        raise ModuleNotFoundError("gone", name="local.gone")
