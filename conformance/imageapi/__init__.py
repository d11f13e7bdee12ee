"""Our reading of the Kubernetes API conventions: checks of any namespaced resource by its URL."""
