"""The storage library: blobs, manifests, tags and uploads on whatever keeps the bytes."""
