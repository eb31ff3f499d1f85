"""Evaluation: decoding, metrics, significance, boundary statistics, figures and reports."""
