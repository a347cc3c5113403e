"""Images of local folders and object stores."""
