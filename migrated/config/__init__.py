"""Configuration: settings, the TOML file, and where it is searched for."""
