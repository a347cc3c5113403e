"""The Dagster layer: components that turn settings into assets, checks and schedules."""
