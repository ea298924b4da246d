"""The PyTorch models SPOTER and BdSL_SPOTER, normalisation included."""
