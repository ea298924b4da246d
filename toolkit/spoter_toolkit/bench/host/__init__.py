"""The machine that is measured: its environment, and its speed before each round."""
