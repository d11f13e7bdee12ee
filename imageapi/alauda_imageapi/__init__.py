"""The API group ``image.alauda.io/v1``, which kubectl takes for one of the cluster's own."""
