"""What measures speed: the benchmark beside PyTorch, single convolutions, the scaling model."""
