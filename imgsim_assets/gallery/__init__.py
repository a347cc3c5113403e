"""Results as HTML pages without a server: pairs, groups and items with thumbnails."""
