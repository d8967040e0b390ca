"""What this machine is: its CPU and its memory."""
