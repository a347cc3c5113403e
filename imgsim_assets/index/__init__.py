"""The FAISS index of a catalog's vectors: its kinds, settings and stage."""
