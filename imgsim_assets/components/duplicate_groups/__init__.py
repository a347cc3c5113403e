"""`imgsim_assets.DuplicateGroupsComponent`: the duplicate groups of several catalogs."""
