"""Jobs, startup kits and processes of a federation."""
