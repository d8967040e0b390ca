"""This machine: its CPU and its memory."""
