"""The network: input embedding → encoder → heads, and the folder that holds a trained one."""
