"""The objects of the image API in custom resources of the cluster."""
