"""Image similarity as a Python object: models, queries, galleries and exports."""
