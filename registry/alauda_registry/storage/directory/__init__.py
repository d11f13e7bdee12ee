"""What the drivers of a directory, ``filesystem`` and ``pvc``, are made of."""
