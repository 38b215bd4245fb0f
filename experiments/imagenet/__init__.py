"""Fast adversarial training on streams of images."""
