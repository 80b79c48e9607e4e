"""The live service: raw events in, vectors and scores out, over HTTP."""
