"""What the units of a trained network look for, and where the network sees a class."""
