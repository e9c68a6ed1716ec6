"""The classic convolutional networks in JAX: train them, reproduce their papers, look inside."""
