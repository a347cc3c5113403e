"""Downloads: from a shard's URLs to image bytes and a ledger with a row for every item."""
