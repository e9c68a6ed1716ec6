"""Experiments that measure speed: the benchmark beside PyTorch, convolutions, the scaling model."""
