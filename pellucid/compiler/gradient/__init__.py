"""Records the ATen operations of a network and of its gradients as one graph, in operations that every runtime has."""
