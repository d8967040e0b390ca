"""What a bench plans, reads and writes: plain data, without devices."""
