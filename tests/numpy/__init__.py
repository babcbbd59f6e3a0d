"""Tests of what only the NumPy path has."""
