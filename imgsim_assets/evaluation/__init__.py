"""The evaluation of an encoder on a catalog's own images."""
