"""Data sets on disk and in batches: tables, audio, labels, layout."""
