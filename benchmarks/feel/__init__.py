"""What a person waits for and sees: the figures of ``docs/lab/feel.md``, one module for each section."""
