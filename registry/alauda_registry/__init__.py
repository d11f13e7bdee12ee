"""The registry: the specification's vocabulary, the storage library and the server."""
