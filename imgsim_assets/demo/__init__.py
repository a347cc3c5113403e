"""The demo: two small catalogs of real photographs, served over HTTP on this machine."""
