"""Many databases: found, migrated in waves, inspected, and reported on."""
