"""What we ask of Kubernetes: adapters for exactly that, not a general client."""
