"""The network, from a batch to vectors, and the folder that holds a trained one."""
