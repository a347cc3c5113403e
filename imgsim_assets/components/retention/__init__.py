"""`imgsim_assets.RetentionComponent`: the schedule that deletes old versions."""
