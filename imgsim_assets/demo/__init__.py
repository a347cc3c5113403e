"""The demo: two small catalogues of real photographs, served on loopback and worked through."""
