"""Evidence for pairs of images: equal bytes, equal pixels, or local features that align."""
