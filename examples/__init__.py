"""Code locations that consume what the pipeline makes."""
