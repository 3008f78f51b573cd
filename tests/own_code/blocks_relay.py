"""What `modeling_relay` imports: the scale of the embedding output."""

SCALE = 2.0
