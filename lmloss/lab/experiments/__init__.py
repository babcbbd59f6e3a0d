"""Experiments that take longer than a notebook may; each is a module that runs as a command and stores its result."""
