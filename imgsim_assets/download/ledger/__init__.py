"""The table `<name>/images`: its rows, what a run fetches, and how rows are committed."""
