"""Many databases: find, migrate in waves, inspect and report them."""
