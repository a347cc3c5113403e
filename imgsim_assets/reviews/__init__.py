"""The decisions of people about pairs of items."""
