"""The DCASE 2021 Task 4 mean-teacher baseline, written for today's Lightning."""
