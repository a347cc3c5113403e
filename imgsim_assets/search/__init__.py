"""The same power as a plain Python object: models, queries, galleries and exports."""
