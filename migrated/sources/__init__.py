"""Files -> Migrations. What leaves this room knows nothing of the format that it came in."""
