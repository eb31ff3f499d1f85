"""The official DCASE Task 4 code (DESED_task) with the coherence term."""

from dcase_coherence.official.trainers import load_baseline

__all__ = ["load_baseline"]
