"""The parts of the trainer "torch": folder, text, rows, model, optimizer, checkpoint, loop, export; and answer."""
