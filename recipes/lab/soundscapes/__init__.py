"""Strongly labelled soundscapes of the ten DESED classes, from models or from recordings."""

from lab.soundscapes.generate import generate

__all__ = ["generate"]
