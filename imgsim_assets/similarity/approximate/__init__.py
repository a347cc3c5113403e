"""Approximate joins: of all pairs of rows, only those in near inverted lists are compared."""
