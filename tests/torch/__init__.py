"""Tests of what only the PyTorch path has."""
