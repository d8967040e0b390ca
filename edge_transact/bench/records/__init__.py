"""What a bench plans and writes down."""
