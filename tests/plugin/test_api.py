"""The names that others depend on, as they were last decided: a change is a decision.

    python tests/test_api.py > tests/api.txt

writes down a new decision; CHANGELOG.md says it to the users.
"""

import importlib
import inspect
from pathlib import Path

FROZEN = Path(__file__).with_name("api.txt")
PUBLIC = [
    *("coherence_loss", "label_transitions", "CoherenceLoss", "FeatureTap"),
    *("LinearAnnealing", "ExponentialAnnealing", "CoherenceRegularizer", "CoherenceMixin"),
    *("pseudo_labels", "PseudoRows", "boundary_weights"),
    "official.load_baseline",
    "official.script.run_official",
    "official.shims.shims",
    "soundscapes.generate",
    "baseline.config.load_config",
    "baseline.detect.load_detector",
    "runs.trials.Trial",
    "runs.trials.run_trials",
    "evaluation.decode.decode",
    "evaluation.profile.error_profile",
    "evaluation.scores.evaluate",
    "evaluation.scores.Scorer",
    "evaluation.exact.psds",
    "evaluation.significance.t_test",
    *(
        f"evaluation.reference.{name}"
        for name in ("event_based", "segment_based", "intersection_based", "psds")
    ),
]


def described():
    lines = []
    for name in PUBLIC:
        module, _, attribute = f"dcase_coherence.{name}".rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        # Python writes the types of a NamedTuple in another way each year.
        fields = getattr(found, "_fields", None)
        lines.append(
            f"{name}({', '.join(fields)})" if fields else name + str(inspect.signature(found))
        )
        for member, value in inspect.getmembers(found) if inspect.isclass(found) else []:
            own = any(member in vars(base) for base in found.__mro__ if "dcase_coh" in str(base))
            if not member.startswith("_") and own:
                text = inspect.signature(value) if inspect.isfunction(value) else ""
                lines.append(f"{name}.{member}{text}")
    return "\n".join(lines) + "\n"


def test_the_public_names_and_signatures_are_the_decided_ones():
    assert described() == FROZEN.read_text(), f"decide: {__doc__}"


if __name__ == "__main__":
    print(described(), end="")
