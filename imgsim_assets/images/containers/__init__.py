"""Files of each format with only the parts that their pixels need.

Metadata may be as bulky as a file allows, and decoders read it before the pixels. So each function
here drops everything but the first frame, the color profile, and the EXIF orientation.
"""
