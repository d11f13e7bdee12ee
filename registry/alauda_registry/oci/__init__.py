"""The words of the OCI specifications as types: pure, no input or output, never wrong once made."""
