"""The storage drivers; ``alauda_registry.storage.driver`` is the contract they keep."""
