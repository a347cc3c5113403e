"""The HTTP API and the pages of `imgsim serve`."""
