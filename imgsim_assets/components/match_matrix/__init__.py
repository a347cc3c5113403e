"""`imgsim_assets.MatchMatrixComponent`: the match table of two catalogs."""
