"""The kinds of ``image.alauda.io/v1``, one module each."""
