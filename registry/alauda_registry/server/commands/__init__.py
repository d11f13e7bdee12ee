"""Commands of ``image-registry`` that do their work and end."""
