"""What convolution and pooling are, as slides of a lecture whose numbers are checked."""
