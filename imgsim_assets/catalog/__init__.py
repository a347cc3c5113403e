"""Catalogs: from a declared source to validated items in stable shards."""
