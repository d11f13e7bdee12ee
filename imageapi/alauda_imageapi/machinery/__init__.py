"""What every kind of a Kubernetes API has in common; nothing here knows a kind."""
