"""Measurements on real images; every script takes its inputs as arguments."""
