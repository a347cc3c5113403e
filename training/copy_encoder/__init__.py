"""Trains `imgsim_copy`, the encoder that finds edited copies of an image."""
