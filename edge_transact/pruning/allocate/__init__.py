"""From a budget to the widths of every layer."""
