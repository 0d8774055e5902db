"""sqlite: to be said."""
