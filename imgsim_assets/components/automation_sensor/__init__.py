"""`imgsim_assets.AutomationComponent`: the sensor that starts what changed."""
