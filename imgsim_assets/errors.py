"""Errors whose message is meant for the person who runs the pipeline."""

from __future__ import annotations


class ImgsimError(Exception):
    """Base of every error raised on purpose: the message names the place and the mend."""


class SettingsError(ImgsimError, ValueError):
    """A setting (YAML key, argument, environment variable) has a value that cannot work."""


class SourceError(ImgsimError):
    """A catalog source cannot be read as declared."""


class StoreError(ImgsimError):
    """The store cannot do what was asked of it."""


class CorruptFileError(StoreError):
    """A stored file's bytes differ from the checksum that was committed for it."""


class EncoderError(ImgsimError):
    """An encoder cannot be loaded, or returned something that is not an embedding."""
