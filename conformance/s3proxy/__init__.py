"""A proxy before an S3 server: counts what is asked of it, and spoils it when told to."""
