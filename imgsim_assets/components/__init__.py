"""The Dagster components: one package per component, and the modules that they share."""
