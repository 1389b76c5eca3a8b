"""The package's own vision towers, one module each."""
