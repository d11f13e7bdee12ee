"""Our own executable reading of the OCI distribution specification."""
