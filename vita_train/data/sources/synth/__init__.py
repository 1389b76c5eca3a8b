"""The embedded small omni world: pictures of coloured shapes, a grammar of sentences, synthesised speech."""
