"""formats: to be said."""
