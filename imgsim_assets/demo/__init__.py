"""The demo: two small catalogs of real photographs, served on loopback and worked through."""
