"""Where the tasks of a step run: in this process, or on a Ray cluster."""
