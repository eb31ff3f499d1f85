"""How many inputs: 40 a test in the suite, thousands with --hypothesis-profile=nightly."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a machine under load is slow, not wrong.
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("nightly", max_examples=2500, print_blob=True, **COMMON)

INPUTS: Counter = Counter()


def pytest_terminal_summary(terminalreporter):
    if INPUTS:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(INPUTS.items()))
        terminalreporter.write_line(f"fuzzing: {sum(INPUTS.values())} inputs ({counts})")


@pytest.fixture(scope="session")
def counted():
    """Count an input by its kind, and whether it was read or refused."""

    def count(kind, read):
        INPUTS[f"{kind} {'read' if read else 'refused'}"] += 1

    return count


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")
