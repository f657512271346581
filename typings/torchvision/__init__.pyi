"""The part of torchvision that Mattebox uses; torchvision ships no types."""
