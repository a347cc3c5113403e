"""`imgsim_assets.ImageCatalogComponent`: one module per asset."""
