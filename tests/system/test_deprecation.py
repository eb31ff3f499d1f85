"""A retired name works, and says what to use."""

import pytest

from dcase_coherence.system.deprecation import deprecated


def test_a_retired_function_works_and_warns_where_it_is_called():
    @deprecated("use twice()", gone_in="0.9")
    def double(value, *, by=2):
        return by * value

    with pytest.warns(
        FutureWarning, match=r"double is gone in dcase_coherence 0\.9; use twice"
    ) as w:
        assert double(3, by=5) == 15
    assert w[0].filename == __file__
    assert double.__name__ == "double"
