"""Encoders: from images to embeddings, and the stage that keeps a catalog's vectors."""
