"""What is not installed, or does not load, is one sentence before any work."""

import ast
import importlib
import importlib.metadata
import sys
from pathlib import Path

import pytest

from lab import packages
from lab.errors import InputError
from lab.packages import NETWORK, SCORES, SOUND, require

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "recipes" / "envs" / "constraints.txt"
MENDING = "; in the clone: pip install -c recipes/envs/constraints.txt '.[recipes]'"
# Of other extras, of which their users say that they are missing.
OPTIONAL = {"optuna", "sqlalchemy", "sed_eval", "psds_eval", "sed_scores_eval", "desed", "scaper"}


def complaint(*modules):
    with pytest.raises(InputError) as refused:
        require(*modules)
    return str(refused.value)


def test_what_is_missing_or_does_not_load_is_named_as_pip_knows_it(monkeypatch, tmp_path):
    for name, content in (
        ("needs_another", "import nowhere_to_be_found.part"),
        ("ill_built", "raise AttributeError('no\\n  symbol')"),
    ):
        (tmp_path / f"{name}.py").write_text(f"{content}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert complaint("numpy", "yaml") == f"pyyaml is not installed{MENDING}"
    assert complaint("needs_another") == f"nowhere_to_be_found is not installed{MENDING}"
    assert complaint("ill_built") == f"ill_built does not load (no symbol){MENDING}"


def test_a_torchaudio_of_another_torch_is_named_with_it(monkeypatch):
    load, versions = importlib.import_module, {"torch": "2.11.0", "torchaudio": "2.11.1"}

    def without(name):
        if name != "torchaudio":
            return load(name)
        try:
            raise OSError("_torchaudio.so: undefined symbol: torch_exception_get_what")
        except OSError as error:
            raise OSError("Could not load this library: _torchaudio.so") from error

    monkeypatch.setattr(packages.importlib, "import_module", without)
    monkeypatch.setattr(packages.importlib.metadata, "version", versions.get)
    assert complaint("torch", "torchaudio") == (
        "torchaudio 2.11.1 does not load beside torch 2.11.0 "
        f"(_torchaudio.so: undefined symbol: torch_exception_get_what){MENDING}"
    )


def imported(folder):
    """Top-level modules that the files of a folder import, whenever they do."""
    result = set()
    for path in (ROOT / "recipes" / "lab" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                result |= {one.name.split(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom):
                result.add((node.module or "lab").split(".")[0])
    return result - {"lab", "dcase_coherence"} - set(sys.stdlib_module_names) - OPTIONAL


def test_what_the_lab_imports_is_required():
    # A part of Lightning, and what detect.py asks for where it makes a page.
    assert imported("") <= {*NETWORK, "lightning_fabric", "plotly"}
    assert imported("soundscapes") <= {*SOUND}
    # Of posteriors, which a test writes, and of the page of detect.py.
    assert imported("evaluation") <= {*SCORES, "torch", "plotly"}


COMMANDS = {
    "train_sed_coherence.py": ("torchaudio", []),
    "compare.py": ("pytorch_lightning", []),
    "detect.py": ("torchaudio", ["a.wav", "--checkpoint", "a.ckpt"]),
    "figures.py": ("yaml", ["a.ckpt", "b.ckpt"]),
    "prepare_desed.py": ("soundfile", ["--resample", "a"]),
    "generate.py": ("soundfile", ["--out", "a"]),
    "evaluate.py": ("matplotlib", ["a.tsv", "b.tsv"]),
}


@pytest.mark.parametrize("recipe", sorted(p.name for p in (ROOT / "recipes").glob("*.py")))
def test_a_command_says_it_before_any_work(recipe, tmp_path, monkeypatch, capsys):
    import runpy

    module, arguments = COMMANDS[recipe]
    main = runpy.run_path(str(ROOT / "recipes" / recipe))["main"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    name = {"yaml": "pyyaml"}.get(module, module)
    assert capsys.readouterr().err == f"error: {name} is not installed{MENDING}\n"
    assert not any(tmp_path.iterdir())


def test_the_constraints_hold_what_every_extra_asks_for():
    requirements = pytest.importorskip("packaging.requirements")
    lines = CONSTRAINTS.read_text("utf-8").split()
    name = pytest.importorskip("packaging.utils").canonicalize_name
    exact = {name(one): release for one, release in (line.split("==") for line in lines)}
    assert len(exact) == len(lines)
    requests = map(requirements.Requirement, importlib.metadata.requires("dcase-coherence"))
    for one in requests:
        # Its packages need an environment of their own, with another numpy.
        if one.marker is None or not one.marker.evaluate({"extra": "desed"}):
            assert exact[name(one.name)] in one.specifier, one
