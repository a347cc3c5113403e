"""Measurements on real pictures; every script takes its inputs as arguments."""
