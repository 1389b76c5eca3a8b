"""The embedded small omni world: images of coloured shapes, a grammar of sentences, synthesised
speech."""
