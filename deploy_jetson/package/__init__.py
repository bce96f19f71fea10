"""One archive for a Jetson TX2: code, model, kernels, wheels, unit and installer."""
