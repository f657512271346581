"""From what the network found to the composite: mattes, foreground estimation, backgrounds, blending."""
