"""The stages composed into pipelines: what Dagster, the shell and a notebook all run."""
