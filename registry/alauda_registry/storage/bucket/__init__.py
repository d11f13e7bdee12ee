"""What a repository library does otherwise where files are objects: pages instead of folders."""
