"""Catalogs: from a declared source to validated rows in stable shards."""
