"""`imgsim_assets.StoreComponent`: where a project's tables and images are."""
