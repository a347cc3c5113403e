"""The ledger `<name>/images`: its rows, what a run has to fetch, and how rows are committed."""
