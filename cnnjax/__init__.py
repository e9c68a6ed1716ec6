"""The classic convolutional networks in JAX: train them, reproduce their papers, look inside."""

__version__ = '0.1.0'  # the only place that says it: pyproject.toml reads it here
