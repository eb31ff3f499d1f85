"""Errors, files, processes and devices; nothing here knows of sound."""
