"""From what a forward pass left behind to explanations. Pure tensor functions; nothing here runs the trunk."""
