"""The ASGI application: the distribution specification's endpoints over the storage library."""
