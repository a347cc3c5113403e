"""Storage: versioned tables and content-addressed images under one root."""
