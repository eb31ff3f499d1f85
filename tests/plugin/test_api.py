"""The names that others depend on, as they were last decided: a change is a decision.

    python tests/plugin/test_api.py > tests/plugin/api.txt

writes down a new decision; CHANGELOG.md says it to the users.
"""

import importlib
import inspect
from pathlib import Path

FROZEN = Path(__file__).with_name("api.txt")
PUBLIC = [
    *("coherence_loss", "label_transitions", "transition_loss", "boundary_weights"),
    *("CoherenceLoss", "TransitionLoss", "HeadLoss", "FeatureTap", "LinearAnnealing"),
    *("CoherenceRegularizer", "CoherenceMixin", "settings.Settings"),
    "official.load_baseline",
    "official.script.run_official",
    "official.shims.shims",
]


def described():
    lines = []
    for name in PUBLIC:
        module, _, attribute = f"dcase_coherence.{name}".rpartition(".")
        result = getattr(importlib.import_module(module), attribute)
        # Python writes the types of a NamedTuple in another way each year.
        fields = getattr(result, "_fields", None)
        lines.append(
            f"{name}({', '.join(fields)})" if fields else name + str(inspect.signature(result))
        )
        for member, value in inspect.getmembers(result) if inspect.isclass(result) else []:
            own = any(member in vars(base) for base in result.__mro__ if "dcase_coh" in str(base))
            if not member.startswith("_") and own:
                text = inspect.signature(value) if inspect.isfunction(value) else ""
                lines.append(f"{name}.{member}{text}")
    return "\n".join(lines) + "\n"


def test_the_public_names_and_signatures_are_the_decided_ones():
    assert described() == FROZEN.read_text(), f"decide: {__doc__}"


if __name__ == "__main__":
    print(described(), end="")
