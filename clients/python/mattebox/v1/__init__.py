"""Generated from protos/mattebox/v1; `make proto` makes it anew."""
