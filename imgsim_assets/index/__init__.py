"""Indexes: a catalog's vectors as a FAISS file that is updated, checked and searched."""
