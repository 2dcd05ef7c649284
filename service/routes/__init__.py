"""Routes: each declares its options and its document, and says what it asks of the flow."""
