"""Images from the codes of a network's layers."""
