"""Images in files: pictures, TIFF, .npy and Zarr, read and written whole or in chunks.

``images.py`` says which format a name means. Each format has a file with what reads and what
creates it; all speak of axes, spacings and units in the same words (``about.py``).
"""
