"""The image API of a cluster: an API server behind the aggregator."""
