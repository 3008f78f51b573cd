"""Models: encoders loaded from checkpoints, their inputs, and the heads trained on top of them."""
