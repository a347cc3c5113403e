"""Errors whose message is written for the person who runs the pipeline."""

from __future__ import annotations


class ImgsimError(Exception):
    """Base of all errors of this package. The message names the location and how to fix it."""


class SettingsError(ImgsimError, ValueError):
    """A setting (YAML key, argument, environment variable) has an invalid value."""


class SourceError(ImgsimError):
    """A catalog source cannot be read as declared."""


class StoreError(ImgsimError):
    """The store does not have what was requested, or cannot be used as configured."""


class FormatError(StoreError):
    """Another version of imgsim_assets, with another file format, wrote a table of the store."""


class CorruptFileError(StoreError):
    """A stored file is missing or does not match its committed checksum."""


class InvariantError(StoreError):
    """A table breaks one of its invariants, so nothing is computed from it."""


class EncoderError(ImgsimError):
    """An encoder cannot be loaded, or returned something that is not an embedding."""
