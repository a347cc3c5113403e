"""Images: reading headers, decoding, and composing sheets of thumbnails."""
