"""Image similarity as Dagster assets: catalogues, downloads, embeddings, indexes, matches."""
