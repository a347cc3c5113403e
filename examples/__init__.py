"""Code locations that use the tables of the pipeline."""
