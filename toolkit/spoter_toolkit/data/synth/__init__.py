"""Generated signing: bodies, signs, and DATASETs of them."""
