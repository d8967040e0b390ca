"""What rounding to 4 bits cost, as figures and a page."""
