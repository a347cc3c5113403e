"""Encoders: from pictures to embeddings, and the stage that keeps a catalogue's vectors."""
