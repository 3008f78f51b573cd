"""ftprobe: how fine-tuning changes the representations of pre-trained language models."""
