"""Strongly labelled soundscapes of the ten DESED classes, from models or from recordings."""

from .generate import generate

__all__ = ["generate"]
