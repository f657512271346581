"""Makes composites from the answers of networks: mattes, foreground estimation, backgrounds, blending."""
