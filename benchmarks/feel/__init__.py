"""What a person waits for and sees: the figures of ``docs/feel.md``, one module for each section."""
