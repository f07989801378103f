"""The measurements of nano's model card."""
