"""The parts of the engine `torch`."""
